"""A method that reads features, and learns adapters, in a loop of plain torch."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb

digits = lb.load_data("digits").splits["train"]
images, labels = digits.samples.fetch(digits.indices)
loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)


def network(*channels):
    return lb.build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=channels)


def train(module, loss_of, epochs=5):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()


torch.manual_seed(0)
teacher, student = network(32, 64), network(8, 16)
train(teacher, lambda batch: torch.nn.functional.cross_entropy(teacher(batch[0]), batch[1]))
method = lb.KD(temperature=4) + lb.FitNet(weight=1.0)
distillation = lb.Distillation(student, teacher, method, example=next(iter(loader)))
train(distillation, distillation)  # its parameters: the student's and the adapters'
student = distillation.deploy()  # plain again, in eval mode
print(f"student: {(student(images).argmax(1) == labels).float().mean():.3f} of the digits it saw")

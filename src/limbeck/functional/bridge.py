"""From the student's embedding space to the teacher's (Jafari et al., 2301.12006)."""

import torch
from jaxtyping import Float
from torch import Tensor


def embedding_bridge(
    student_table: Float[Tensor, "tokens student_width"],
    teacher_table: Float[Tensor, "tokens teacher_width"],
) -> Float[Tensor, "teacher_width student_width"]:
    r"""Return :math:`Q = W_T W_S^T (W_S W_S^T)^{-1}`, the least-squares map.

    The paper's W has a column for each token; tables here have a row. Worked out in float64, with
    the pseudo-inverse, which is the inverse unless the student's vectors do not fill their space.

    Args:
        student_table: a word vector for each token of the shared vocabulary.
        teacher_table: the teacher's, in the same order.

    Returns:
        Q, in the student table's dtype, without a graph: ``teacher ≈ Q @ student`` of each token.

    Raises:
        ValueError: the tables have different numbers of tokens.

    >>> embedding_bridge(torch.eye(2), torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    tensor([[0., 3.],
            [2., 0.]])
    """
    if len(student_table) != len(teacher_table):
        raise ValueError(
            f"student table has {len(student_table)} tokens, teacher table {len(teacher_table)}; "
            "expected the same vocabulary"
        )
    ours, theirs = (table.detach().double() for table in (student_table, teacher_table))
    found = (theirs.T @ ours) @ torch.linalg.pinv(ours.T @ ours, hermitian=True)
    bridge: Tensor = found.to(student_table.dtype)
    return bridge

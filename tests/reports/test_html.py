"""The page: whole, self-contained, escaped, small, and there for every kind of run."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import run_folders

from limbeck.errors import DataError, StorageError
from limbeck.reports import write_report

VOID = {"meta", "link", "br", "img", "hr", "input"}
LOADING = {"src", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Checks nesting, and gathers what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: dict[str, int] = {}
        self.pictures: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        self.note(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, dict(attrs))

    def note(self, tag: str, attrs: dict[str, str | None]) -> None:
        if attrs.get("id"):
            self.ids.append(str(attrs["id"]))
        for name, value in attrs.items():
            if name in LOADING:
                self.loads.append(str(value))
            if name in ("href", "xlink:href"):
                self.links.append(str(value))
            assert not name.startswith("on"), f"{tag} has {name}"
        if tag == "svg":
            assert attrs["role"] == "img"
            self.pictures.append(str(attrs["aria-label"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def page_of(runs: list[Path], out: Path, **options: object) -> Page:
    file = write_report(runs, out, **options)  # type: ignore[arg-type]
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def study_page(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    file = write_report([study], tmp_path_factory.mktemp("page") / "report.html")
    return file, Page(file.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_anywhere(study_page: tuple[Path, Page]) -> None:
    file, page = study_page
    text = file.read_text(encoding="utf-8")
    assert page.loads == []
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "iframe", "object", "embed", "img", "base"} & set(page.tags)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "http" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)


def test_every_link_and_reference_leads_somewhere_on_the_page(
    study_page: tuple[Path, Page],
) -> None:
    file, page = study_page
    assert len(page.ids) == len(set(page.ids))
    wanted = [link[1:] for link in page.links]
    wanted += re.findall(r"url\(#([^)]*)\)", file.read_text(encoding="utf-8"))
    assert set(wanted) <= set(page.ids)


def test_the_sections_are_there_and_pictures_have_words(study_page: tuple[Path, Page]) -> None:
    _, page = study_page
    for section in ("results", "done", "curves", "calibration", "agreement", "classes", "methods"):
        assert section in page.ids
    assert len(page.pictures) >= 10
    assert all(len(words) > 40 for words in page.pictures)
    assert "Hinton, Vinyals, Dean (2015)" in page.words
    assert "limbeck run KD.yaml seed=1" in page.words
    assert "120 labelled, 977 unlabelled" in page.words


def test_colours_are_variables_only(study_page: tuple[Path, Page]) -> None:
    text = study_page[0].read_text(encoding="utf-8")
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b", drawings)
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert used <= set(re.findall(r"(--[\w-]+):", text))


def test_contrast_of_text_is_enough_in_light_and_dark() -> None:
    style = Path(run_folders.__file__).parents[2] / "src/limbeck/reports/templates/style.css"
    blocks = re.findall(r":root \{(.*?)\}", style.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        page = luminance(colours["page"])
        for name in ["ink", "muted", "accent", "teacher", *(f"arm-{i}" for i in range(8))]:
            text = luminance(colours[name])
            ratio = (max(page, text) + 0.05) / (min(page, text) + 0.05)
            assert ratio >= 4.5, (name, ratio)


def test_ten_runs_stay_small(tmp_path: Path) -> None:
    root = tmp_path / "ten"
    data = run_folders.digits()
    teacher = run_folders.train_teacher(data, 0, width=16, epochs=2)
    for arm in range(2):
        for seed in range(5):
            run_folders.write_run(
                root / f"{arm}-{seed}", f"arm {arm}", seed, data, teacher if arm else None, epochs=2
            )
    file = write_report([root], tmp_path / "report.html")
    assert file.stat().st_size < 500_000


def test_strings_of_users_are_escaped(study: Path, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script> & $\\alpha$ 蒸留'
    for name in ("KD-0", "alone-0"):
        copy = Path(shutil.copytree(study / name, tmp_path / "runs" / f"{name} <b>"))
        summary = json.loads((copy / "summary.json").read_text())
        summary["name"] = f"{evil} {name}"
        summary["method"] = [{"name": evil, "weight": 1.0}]
        if name == "KD-0":
            summary["teachers"] = {evil: summary["teachers"].pop("teacher")}
        (copy / "summary.json").write_text(json.dumps(summary))
    page = page_of([tmp_path / "runs"], tmp_path / "report.html", title=evil)
    assert "script" not in page.tags
    assert "b" not in page.tags or page.tags["b"] < 20
    assert page.words.count('<script>alert("x")</script> & $\\alpha$ 蒸留') >= 5


def test_the_same_runs_give_the_same_file(
    study: Path, study_page: tuple[Path, Page], tmp_path: Path
) -> None:
    assert write_report([study], tmp_path / "b.html").read_bytes() == study_page[0].read_bytes()


def test_one_run_into_a_folder(study: Path, tmp_path: Path) -> None:
    file = write_report([study / "KD-0"], tmp_path)
    assert file == tmp_path / "report.html"
    page = Page(file.read_text(encoding="utf-8"))
    assert "KD: the student reaches" in page.words
    assert "calibration" in page.ids


def test_no_teacher_and_no_predictions(study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study / "alone-0", tmp_path / "run"))
    assert "agreement" not in page_of([copy], tmp_path / "a.html").ids
    (copy / "predictions.safetensors").unlink()
    page = page_of([copy], tmp_path / "b.html")
    assert "calibration" not in page.ids
    assert "results" in page.ids


def test_classes_are_called_by_the_names_that_the_student_was_saved_with(
    study: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(study / "alone-0", tmp_path / "run"))
    names = [f"digit {chr(ord('A') + k)}" for k in range(10)]
    (copy / "student").mkdir()
    (copy / "student" / "model.json").write_text(json.dumps({"class_names": names}))
    pictures = page_of([copy], tmp_path / "a.html").pictures
    found = next(words for words in pictures if words.startswith("Hardest classes"))
    assert all(f"{name}: alone" in found for name in names)


def test_an_unfinished_run_has_a_page_that_says_so(study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study / "KD-0", tmp_path / "run"))
    (copy / "summary.json").write_text('{"name": "KD", "status": "running", "seed": 0}')
    page = page_of([copy], tmp_path / "a.html")
    assert "The run is not finished." in page.words
    assert "is running after 12 epochs" in page.words
    assert len(page.pictures) >= 3  # its curves so far
    for file in ("metrics.jsonl", "timing.jsonl", "environment.json", "predictions.safetensors"):
        (copy / file).unlink()
    assert "The log holds no curves yet." in page_of([copy], tmp_path / "b.html").words


def test_regression_and_several_labels(regression: Path, multilabel: Path, tmp_path: Path) -> None:
    page = page_of([regression], tmp_path / "a.html")
    assert "R²" in page.words
    assert "calibration" not in page.ids
    assert "F1" in page_of([multilabel], tmp_path / "b.html").words


def test_verdicts_appear_with_a_smallest_effect(regression: Path, tmp_path: Path) -> None:
    page = page_of([regression], tmp_path / "a.html", smallest_effect=0.25)
    assert "against a smallest effect of 0.250, set beforehand" in page.words
    assert re.search(r"\b(holds|does not hold|cannot be told)\b", page.words)


def test_damaged_runs_and_places_that_cannot_be_written(multilabel: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder at"):
        write_report([tmp_path / "none"], tmp_path / "a.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*a\.html: a file is in the way"):
        write_report([multilabel], tmp_path / "file" / "a.html")

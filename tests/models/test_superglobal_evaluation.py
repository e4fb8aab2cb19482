"""The revisited benchmark: its files, including hostile ones, and evaluation with distractors in bounded memory."""

from __future__ import annotations

import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.io.plain_pickle import read_pickle
from visionzoo.metrics.ranking import evaluate
from visionzoo.models.superglobal.descriptors import Descriptors, DescriptorShards, read_descriptors
from visionzoo.models.superglobal.evaluation import Evaluation, evaluate_descriptors
from visionzoo.models.superglobal.reranking import rerank
from visionzoo.models.superglobal.revisited import (
    Benchmark,
    convert_ground_truth,
    read_benchmark,
    read_image_list,
)
from visionzoo.models.superglobal.synthetic import make_benchmark, make_distractors


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_benchmark(folder, "rtoy", landmarks=4, views=3, others=6, side=96)
    return folder


@pytest.fixture
def benchmark_(root) -> Benchmark:
    return read_benchmark(root, "rtoy")


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# Files


def test_the_published_layout_is_read(benchmark_):
    assert len(benchmark_.queries) == 4
    assert len(benchmark_.images) == 4 * (3 + 3 + 1) + 6
    assert benchmark_.truths[1].easy.tolist() == [7, 8, 9]
    benchmark_.check_files()


def test_json_is_preferred_and_equal(root, tmp_path):
    made = make_benchmark(tmp_path, "rtoy", landmarks=2, views=2, others=1, side=64)
    target = convert_ground_truth(made.folder / "gnd_rtoy.pkl")
    (made.folder / "gnd_rtoy.pkl").unlink()
    again = read_benchmark(tmp_path, "rtoy")
    assert target.name == "gnd_rtoy.json"
    assert again.images == made.images
    assert again.boxes == made.boxes
    for a, b in zip(again.truths, made.truths, strict=True):
        np.testing.assert_array_equal(a.named, b.named)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_and_scalars_of_every_protocol_are_read(tmp_path, protocol):
    content = {
        "ints": np.array([[1, 2], [3, 4]]),
        "fortran": np.asfortranarray([[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]),
        "big_endian": np.array([1, 2], dtype=">i4"),
        "scalar": np.float64(0.25),
        "list": [np.int64(3), 4, "é", None, True],
        "tuple": (1.5, 2),
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert read_pickle(path) == {
        "ints": [[1, 2], [3, 4]],
        "fortran": [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]],
        "big_endian": [1, 2],
        "scalar": 0.25,
        "list": [3, 4, "é", None, True],
        "tuple": [1.5, 2],
    }


def test_arrays_of_older_numpy_are_read(tmp_path):
    data = pickle.dumps({"a": np.arange(3)}, protocol=2)
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != data or b"numpy.core.multiarray" in data
    (tmp_path / "x.pkl").write_bytes(old)
    assert read_pickle(tmp_path / "x.pkl") == {"a": [0, 1, 2]}


class _Runs:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "was_run"
    for call, args in ((os.mkdir, (str(mark),)), (eval, (f"__import__('os').mkdir({str(mark)!r})",))):
        path = tmp_path / "gnd_x.pkl"
        path.write_bytes(pickle.dumps({"imlist": _Runs(call, *args)}))
        with pytest.raises(InputError, match=r"gnd_x\.pkl: contains .*no code was run"):
            read_pickle(path)
        assert not mark.exists()


@pytest.mark.parametrize("value", [np.array([{}], dtype=object), np.array(["a"]), {1, 2}, 1j, np.dtype("O")])
def test_values_that_ground_truth_never_has_are_refused(tmp_path, value):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": value}))
    with pytest.raises(InputError, match="no code was run"):
        read_pickle(path)


@pytest.mark.parametrize("data", [b"", b"no pickle at all", pickle.dumps([1, 2])[:-3], b"\x80\x05]\x94(K\x01"])
def test_a_damaged_pickle_is_a_one_line_error(tmp_path, data):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.pkl: not a pickle, or damaged") as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gnd": []}, "0 entries of ground truth"),
        ({"imlist": ["../../etc/passwd"]}, "not the name of a file in the jpg folder"),
        ({"imlist": ["a"]}, "outside 0..0"),
        ({"gnd": [{"bbx": [0, 0, 1, 1], "easy": [0], "hard": []}]}, "lacks 'junk'"),
        ({"gnd": [{"bbx": [0, 0, 1], "easy": [0], "hard": [], "junk": []}]}, "entry of query 0 is wrong"),
        ({"gnd": [{"bbx": [0, 0, 1, 1], "easy": [0, 0], "hard": [], "junk": []}]}, "named twice"),
    ],
)
def test_wrong_ground_truth_names_the_file_and_the_entry(tmp_path, change, message):
    content = {
        "imlist": ["a", "b"],
        "qimlist": ["q"],
        "gnd": [{"bbx": [0, 0, 9, 9], "easy": [1], "hard": [0], "junk": []}],
    }
    (tmp_path / "rtoy").mkdir()
    file = tmp_path / "rtoy" / "gnd_rtoy.json"
    file.write_text(json.dumps(content))
    assert read_benchmark(tmp_path, "rtoy").images == ("a", "b")
    file.write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=message) as caught:
        read_benchmark(tmp_path, "rtoy")
    assert str(file) in str(caught.value)


def test_missing_ground_truth_and_images_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"gnd_roxford5k\.pkl: no such file; expected the ground truth there"):
        read_benchmark(tmp_path, "roxford5k")
    made = make_benchmark(tmp_path, "rtoy", landmarks=1, views=1, others=1, side=64)
    made.path(made.images[0]).unlink()
    made.path(made.queries[0]).unlink()
    with pytest.raises(InputError, match=r"rtoy_0000\.jpg and 1 more of 5 images are missing"):
        made.check_files()


def test_a_list_that_leads_out_of_the_folder_is_refused(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("a/b.jpg\n\n../../c.jpg\n")
    with pytest.raises(InputError, match=r"entry 2: '\.\./\.\./c\.jpg' points outside the image folder"):
        read_image_list(listing)
    listing.write_text("a/b.jpg\r\nc.jpg\n")
    assert read_image_list(listing) == ["a/b.jpg", "c.jpg"]


def test_made_up_images_are_the_same_every_time(tmp_path):
    a, b = (make_distractors(tmp_path / name, 4, side=64) for name in "ab")
    assert a.read_text() == b.read_text()
    for name in read_image_list(a):
        assert (a.parent / name).read_bytes() == (b.parent / name).read_bytes()


# Descriptors in shards


def test_shards_resume_and_refuse_what_does_not_belong(tmp_path):
    values = _unit(10, 4).numpy()
    shards = DescriptorShards.create(tmp_path / "d", 10, 4, {"model": "a"})
    assert [list(shards.span(i)) for i in range(len(shards))] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    shards.write(2, values[8:])
    shards.write(0, values[:4])
    with pytest.raises(InputError, match=r"1 of 3 shards are missing, descriptors-00001\.npy first"):
        read_descriptors(tmp_path / "d")
    again = DescriptorShards.create(tmp_path / "d", 10, 4, {"model": "a"})
    assert again.missing() == [1]
    again.write(1, values[4:8])
    np.testing.assert_array_equal(torch.cat(list(read_descriptors(tmp_path / "d").chunks(3))).numpy(), values)
    with pytest.raises(InputError, match="made with other model"):
        DescriptorShards.create(tmp_path / "d", 10, 4, {"model": "b"})
    np.save(tmp_path / "d" / "descriptors-00001.npy", values[:2])
    with pytest.raises(InputError, match=r"descriptors-00001\.npy: has 2 descriptors instead of 4"):
        read_descriptors(tmp_path / "d")


def test_rows_come_from_the_right_part():
    values = _unit(11, 3)
    parts = Descriptors.of(values[:4], values[4:4], values[4:5].numpy(), values[5:])
    ids = torch.tensor([[10, 0, 4], [3, 5, 4]])
    torch.testing.assert_close(parts.rows(ids), values[ids], rtol=0, atol=0)
    assert len(parts) == 11


def test_a_file_of_python_objects_is_refused_as_descriptors(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"x\.npy: is not a \.npy file of descriptors"):
        read_descriptors(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    with pytest.raises(InputError, match="must be float32 or float16 of shape"):
        read_descriptors(tmp_path / "x.npy")


# Evaluation


def _plain_evaluation(queries, vectors, benchmark, top):
    """Both stages with whole rankings in memory."""
    scores = queries @ vectors.T
    rankings = scores.argsort(dim=1, descending=True, stable=True)
    order = rerank(queries, vectors[rankings[:, :top]], k=9, beta=0.15).order
    second = rankings.clone()
    second[:, :top] = rankings[:, :top].gather(1, order)
    return evaluate(rankings.numpy(), benchmark.truths), evaluate(second.numpy(), benchmark.truths)


def _related(benchmark: Benchmark, dim: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Descriptors in which the images of a landmark are near its query, more or less."""
    queries = _unit(len(benchmark.queries), dim, seed=1)
    database = _unit(len(benchmark.images), dim, seed=2)
    for query, truth in zip(queries, benchmark.truths, strict=True):
        for images, share in ((truth.easy, 0.8), (truth.hard, 0.35), (truth.junk, 0.5)):
            database[torch.from_numpy(images)] += share * 2 * query
    return queries, F.normalize(database, dim=-1)


@pytest.mark.parametrize("half", [False, True])
def test_distractor_shards_give_what_everything_in_memory_gives(benchmark_, tmp_path, half):
    queries, database = _related(benchmark_)
    distractors = _unit(500, 24, seed=3).numpy().astype(np.float16 if half else np.float32)
    shards = DescriptorShards.create(tmp_path / "r1m", 500, 64, {})
    for shard in range(len(shards)):
        span = shards.span(shard)
        shards.write(shard, distractors[span.start : span.stop])
    got = evaluate_descriptors(
        queries, database, benchmark_, distractors=read_descriptors(tmp_path / "r1m"), rerank_top=50, chunk=33
    )
    vectors = torch.cat([database, torch.from_numpy(distractors.astype(np.float32))])
    single, second = _plain_evaluation(queries, vectors, benchmark_, 50)
    assert got.distractors == 500
    assert 0 < single["H"]["map"] < 1
    assert second["H"]["map"] != single["H"]["map"]
    for difficulty in "EMH":
        for key in ("aps", "precision_per_query"):
            np.testing.assert_allclose(got.stages["single_stage"][difficulty][key], single[difficulty][key])
            np.testing.assert_allclose(got.stages["reranked"][difficulty][key], second[difficulty][key])


def test_distractors_never_improve_the_score(benchmark_):
    queries, database = _related(benchmark_)
    without = evaluate_descriptors(queries, database, benchmark_)
    crowded = evaluate_descriptors(queries, database, benchmark_, distractors=_unit(5000, 24, seed=4))
    assert crowded.stages["single_stage"]["H"]["map"] < without.stages["single_stage"]["H"]["map"]


def test_a_database_smaller_than_the_reranked_list(benchmark_):
    queries, database = _related(benchmark_)
    got = evaluate_descriptors(queries, database, benchmark_, rerank_top=400)
    _, second = _plain_evaluation(queries, database, benchmark_, len(database))
    assert got.stages["reranked"]["M"]["map"] == pytest.approx(second["M"]["map"])


def test_wrong_number_of_descriptors(benchmark_):
    queries, database = _related(benchmark_)
    with pytest.raises(InputError, match="has 4 queries and 34 images, got 4 and 33"):
        evaluate_descriptors(queries, database[:-1], benchmark_)
    with pytest.raises(InputError, match="expected \\(n, 24\\)"):
        evaluate_descriptors(queries, database, benchmark_, distractors=_unit(3, 8))


def _evaluation(**changes) -> Evaluation:
    level = {"map": 0.8016, "aps": np.array([0.8016, np.nan]), "mean_precision_at": np.array([1, 0.5, np.nan])}
    stages = {stage: dict.fromkeys("EMH", level) for stage in ("single_stage", "reranked")}
    values = {"dataset": "roxford5k", "model": "superglobal_r101", "queries": 2, "images": 9, "distractors": 0}
    return Evaluation(**{**values, "stages": stages, **changes})


def test_the_table_shows_published_numbers_with_their_source():
    table = str(_evaluation())
    assert "80.2 (read)" in table
    assert "90.9 (recalled)" in table
    assert "100.0 / 50.0 / -" in table
    assert "published" not in str(_evaluation(model="superglobal_lite0"))
    assert "60.4 (user)" in str(_evaluation(distractors=1_001_001))
    assert "published" not in str(_evaluation(distractors=500))  # published numbers are for all of R1M


def test_the_result_is_json():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = json.loads(json.dumps(_evaluation().as_dict(), allow_nan=False))
    assert content["stages"]["reranked"]["H"]["map"] == pytest.approx(80.16)
    assert content["stages"]["reranked"]["H"]["mean_precision_at"] == {"1": 100, "5": 50, "10": None}
    assert content["published"]["reranked"]["H"] == {"map": 80.2, "source": "read"}

"""Awkward files for commands that do not turn an image into a file: indexes, exports, conversions, training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from .cases import PAGE, POINTER, TOO_LONG, Case, Material, jpeg

TRAINING = ("fit", "validate", "test", "predict")

Files = Mapping[str, Callable[[Material], bytes] | bytes]


def line(name: str, words: str, files: Files | None = None, says: str = "", folders: Sequence[str] = ()) -> Case:
    """A case whose whole command line is `words`. No file may be left."""
    return Case(name, files or {}, inputs=words.split(), says=says, folders=folders)


def outputs(words: str, ext: str, files: Files) -> list[Case]:
    """Cases with a wrong output OUT in a command line."""
    found = [
        line("output exists", words, {**files, f"out{ext}": b"mine"}, rf"out\{ext}: exists already; choose another"),
        line("output is a folder", words, files, rf"out\{ext}: (is a folder|exists)", folders=[f"out{ext}"]),
        line(
            "folder of the output is missing", words, files, rf"no/out\{ext}: the folder .*/no does not exist; create"
        ),
        line("long output", words, files, rf"y+\{ext}: the name is too long for this file system"),
        line("output of an unknown extension", words, files, r"out\.xyz: .*\.(html|onnx|safetensors|vzgs|mp4)"),
    ]
    names = {"folder of the output is missing": f"no/out{ext}", "long output": TOO_LONG + ext}
    names["output of an unknown extension"] = "out.xyz"
    return [
        replace(case, inputs=[names.get(case.name, f"out{ext}") if word == "OUT" else word for word in case.inputs])
        for case in found
    ]


def checkpoints(words: str, name: str = "a.pth", files: Files | None = None) -> list[Case]:
    """Cases with a wrong checkpoint `name` in a command line."""
    contents = {
        "empty checkpoint": (b"", "the file is empty .*copy or download it again"),
        "a web page as checkpoint": (PAGE, "is a web page"),
        "an LFS pointer as checkpoint": (POINTER, "is a Git LFS pointer"),
        "a photo as checkpoint": (jpeg, "is not a checkpoint"),
        "text as checkpoint": (b"hello\n", "is not a checkpoint"),
        "truncated checkpoint": (b"PK\3\4" + b"\0" * 200, "truncated checkpoint"),
    }
    cases = [
        line(title, words, {**(files or {}), name: content}, f"{name}: {says}")
        for title, (content, says) in contents.items()
    ]
    return [*cases, line("missing checkpoint", words, files, says=rf"{name}: no such (file|checkpoint)")]


INDEX = "retrieve index d -o i.index --device cpu"
DUPLICATES = "retrieve duplicates {index} -o OUT --device cpu"
EXPORT = "export shvit_s1 -o OUT --random"
CONVERT = "weights convert a.pth OUT"
PHOTO = {"d/a.jpg": jpeg}
RECONSTRUCT = "reconstruct d -o OUT --device cpu"
RENDER = "render {scene} -o OUT --device cpu"
INTERPOLATE = "interpolate a.mp4 -o OUT --device cpu"


def video(material: Material) -> bytes:
    return material.video


CLIP: Files = {"a.mp4": video}

TEXTS = "--prompt blue --source-prompt red --device cpu"
EDIT = f"edit a.mp4 -o OUT {TEXTS}"
CLIP = {"a.mp4": lambda material: material.video}

GENERATE = "generate a.jpg -o OUT --action wait --device cpu"
IMAGE = {"a.jpg": jpeg}
COLORIZE = "colorize a.mp4 -o OUT --reference a.jpg"
DRAWN = {**CLIP, **IMAGE}

OTHERS: dict[str, list[Case]] = {
    "colorize": [
        line("missing", "colorize gone.mp4 -o b.mp4 --reference a.jpg", IMAGE, r"gone\.mp4: no such file"),
        line("folder without videos", "colorize d -o e --reference a.jpg", {"d/a.txt": b"", **IMAGE}, "d: no videos found, and no"),
        line("a folder of images", "colorize d -o b.mp4 --reference d/a.jpg --model longanimation", PHOTO, ".*holds no weights"),
        line("empty", COLORIZE.replace("OUT", "b.mp4"), {"a.mp4": b"", **IMAGE}, r"a\.mp4: the file is empty"),
        line("a web page", COLORIZE.replace("OUT", "b.mp4"), {"a.mp4": PAGE, **IMAGE}, r"a\.mp4: is a web page"),
        line("no reference", "colorize a.mp4 -o b.mp4", CLIP, "--reference is missing: an image in the colours"),
        line("no such reference", "colorize a.mp4 -o b.mp4 --reference r.png", CLIP, r"r\.png: no such file"),
        line("a video as reference", "colorize a.mp4 -o b.mp4 --reference a.mp4", CLIP, r"a\.mp4: is a video"),
        line("no steps", f"{COLORIZE} --steps 0".replace("OUT", "b.mp4"), DRAWN, ".*steps must be at least 1, got 0"),
        line("a size", f"{COLORIZE} --size big".replace("OUT", "b.mp4"), DRAWN, ".*size must be width x height in pixels, e.g."),
        line("no weights", f"{COLORIZE} --model longanimation".replace("OUT", "b.mp4"), DRAWN, ".*holds no weights of Long"),
        line("no such model", f"{COLORIZE} --model nosuch".replace("OUT", "b.mp4"), DRAWN, "there is no model 'nosuch'"),
        line("no such checkpoint", f"{COLORIZE} --checkpoint la".replace("OUT", "b.mp4"), DRAWN, "la: no such folder"),
        line("no such device", f"{COLORIZE} --device abacus".replace("OUT", "b.mp4"), DRAWN, "unknown device 'abacus'"),
        *(case for case in outputs(COLORIZE, ".mp4", DRAWN) if case.name != "output is a folder"),
    ],
    "generate": [
        line("missing", "generate gone.png -o b.mp4 --action wait", says=r"gone\.png: no such file"),
        line("empty", "generate a.png -o b.mp4 --action wait", {"a.png": b""}, r"a\.png: the file is empty"),
        line("a web page", "generate a.png -o b.mp4 --action wait", {"a.png": PAGE}, r"a\.png: is a web page"),
        line("no actions", "generate a.jpg -o b.mp4", IMAGE, "no actions: give a file with --actions FILE"),
        line("no such file of actions", "generate a.jpg -o b.mp4 --actions a.txt", IMAGE, r"a\.txt: no such file"),
        line("unknown action", "generate a.jpg -o b.mp4 --action fly --device cpu", IMAGE, ".*'fly'.*go left"),
        line("no steps", f"{GENERATE} --steps 0".replace("OUT", "b.mp4"), IMAGE, ".*steps must be at least 1, got 0"),
        line("no such model", "generate a.jpg -o b.mp4 --action wait --model nosuch", IMAGE, "there is no model 'nosuch'"),
        line("no such checkpoint", "generate a.jpg -o b.mp4 --action wait --checkpoint ms", IMAGE, "ms: no such folder"),
        line("no such device", "generate a.jpg -o b.mp4 --action wait --device abacus", IMAGE, "unknown device 'abacus'"),
        *(case for case in outputs(GENERATE, ".mp4", IMAGE) if case.name != "output is a folder"),
    ],
    "edit": [
        line("missing", "edit gone.mp4 -o b.mp4", says=r"gone\.mp4: no such file"),
        line("empty", f"edit a.mp4 -o b.mp4 {TEXTS}", {"a.mp4": b""}, r"a\.mp4: the file is empty"),
        line("no prompt", "edit a.mp4 -o b.mp4", CLIP, "no prompt: describe the edited video, e.g. --prompt"),
        line("no source prompt", "edit a.mp4 -o b.mp4 --prompt a", CLIP, "no source prompt: describe the source video"),
        line("no such control", f"edit a.mp4 -o b.mp4 {TEXTS} --control cany", CLIP, "there is no control 'cany'; did you"),
        line("no such control file", f"edit a.mp4 -o b.mp4 {TEXTS} --control c.mp4", CLIP, r"c\.mp4: no such file or folder"),
        line("no such mask", f"edit a.mp4 -o b.mp4 {TEXTS} --mask m.png", CLIP, r"m\.png: no such file or folder, expected masks"),
        line("thresholds", f"edit a.mp4 -o b.mp4 {TEXTS} --canny-thresholds 9,1", CLIP, "the thresholds of canny must be"),
        line("one threshold", f"edit a.mp4 -o b.mp4 {TEXTS} --canny-thresholds 9", CLIP, ".*--canny-thresholds must be 2 numbers"),
        line("no frames", f"edit a.mp4 -o b.mp4 {TEXTS} --frames 0", CLIP, ".*frames must be at least 1, got 0"),
        line("no steps", f"edit a.mp4 -o b.mp4 {TEXTS} --steps 0", CLIP, ".*steps must be at least 1, got 0"),
        line("no such model", f"edit a.mp4 -o b.mp4 {TEXTS} --model nosuch", CLIP, "there is no model 'nosuch'"),
        line("no such checkpoint", f"edit a.mp4 -o b.mp4 {TEXTS} --checkpoint sd", CLIP, "sd: no such folder, expected a pipe"),
        line("no such ControlNet", f"edit a.mp4 -o b.mp4 {TEXTS} --controlnet cn", CLIP, r"cn: holds no ControlNet \(no such f"),
        line("no such device", "edit a.mp4 -o b.mp4 --prompt a --source-prompt b --device abacus", CLIP, "unknown device 'abacus'"),
        *(case for case in outputs(EDIT, ".mp4", CLIP) if case.name != "output is a folder"),
    ],
    "retrieve index": [
        line("missing", INDEX, says="d: no such file or folder"),
        line("folder without images", INDEX, says="d: no images found; expected files with the extension", folders=["d"]),
        line("output is a file", INDEX, {**PHOTO, "i.index": b"mine"}, r"i\.index: exists and is not an index"),
        line("output is another folder", INDEX, {**PHOTO, "i.index/a": b"mine"}, r"i\.index: is not an index"),
        line("long output", f"retrieve index d -o {TOO_LONG}", PHOTO, r"y+: the name is too long for this file system"),
        line("no such model", f"{INDEX} --model nosuch", PHOTO, "there is no model 'nosuch'"),
        line("no such device", "retrieve index d -o i --device abacus", PHOTO, "unknown device 'abacus'"),
        *checkpoints(f"{INDEX} --checkpoint a.pth", files=PHOTO),
        replace(
            line("some bad", INDEX, {**PHOTO, "d/b.jpg": b""}, r".*d/b\.jpg: the file is empty"),
            code=1, left=["i.index/*"] * 5,
        ),
    ],
    "retrieve duplicates": [
        line("missing", "retrieve duplicates gone", says="gone: no such index; make it with: visionzoo retrieve index"),
        line("not an index", "retrieve duplicates a.jpg", {"a.jpg": jpeg}, r"a\.jpg: is not an index of photos"),
        line("no score", "retrieve duplicates {index} --min-score 2", says=r".*between -1 and 1.*2"),
        *outputs(DUPLICATES, ".html", {}),
    ],
    "export": [
        line("no such model", "export nosuch -o a.onnx --random", says="there is no model 'nosuch'"),
        line("model of another task", "export mcnet -o a.onnx --random", says="mcnet: models of the task 'reenact' can"),
        line("no size", "export shvit_s1 -o a.onnx --random --image-size 0", says="--image-size must be at least 1"),
        *outputs(EXPORT, ".onnx", {}),
        *checkpoints("export shvit_s1 -o a.onnx --checkpoint a.pth"),
    ],
    "interpolate": [
        line("missing", "interpolate gone.mp4 -o b.mp4", says="gone.mp4: no such file"),
        line("folder without videos", "interpolate d -o e", PHOTO, "d: no videos found"),
        line("empty", "interpolate a.mp4 -o b.mp4", {"a.mp4": b""}, r"a\.mp4: the file is empty"),
        line("a web page", "interpolate a.mp4 -o b.mp4", {"a.mp4": PAGE}, r"a\.mp4: is a web page"),
        line("a photo", "interpolate a.jpg -o b.mp4", {"a.jpg": jpeg}, r"a\.jpg: "),
        line("input as output", "interpolate a.mp4 -o a.mp4", CLIP, r"a\.mp4: is the input itself|a\.mp4: exists already"),
        line("factor of 1", "interpolate a.mp4 -o b.mp4 --factor 1", CLIP, "factor must be a whole number from 2 to 32, got 1"),
        line("no such device", "interpolate a.mp4 -o b.mp4 --device abacus", CLIP, "unknown device 'abacus'"),
        line("no such model", "interpolate a.mp4 -o b.mp4 --model mcnet", CLIP, "mcnet is not a frame interpolation model; use"),
        *(case for case in outputs(INTERPOLATE, ".mp4", CLIP) if case.name != "output is a folder"),
        *checkpoints("interpolate a.mp4 -o b.mp4 --checkpoint a.pth --device cpu", files=CLIP),
    ],
    "reconstruct": [
        line("missing", "reconstruct gone -o a.vzgs", says="gone: no such file or folder; expected a scene"),
        line("folder without a scene", "reconstruct d -o a.vzgs", PHOTO, "d: is not a scene in a known layout"),
        line("no such preset", "reconstruct d -o a.vzgs --preset fast", PHOTO, ".*--preset"),
        line("busy port", "reconstruct d -o a.vzgs --preview --port {busy}", PHOTO, r"port \d+ on .* is in use; choose"),
        line("too few steps", "reconstruct d -o a.vzgs --steps 1", PHOTO, "--steps must be at least 2, got 1"),
        line("negative seed", "reconstruct d -o a.vzgs --seed -1", PHOTO, "--seed must be between 0 and"),
        line("no such device", "reconstruct d -o a.vzgs --device abacus", PHOTO, "unknown device 'abacus'"),
        line("no such masks", "reconstruct {capture} -o a.vzgs --masks m --device cpu", says="m: no such folder of masks"),
        line(
            "masks for a layout that has its own", "reconstruct {capture} -o a.vzgs --masks m --device cpu",
            says=".*scenes in the layout dycheck have their own masks; omit --masks", folders=["m"],
        ),
        line("too few frames", "reconstruct a.mp4 -o a.vzgs --frames 3", {"a.mp4": b"x"}, "--frames must be at least 8, got 3"),
        line("a photo", "reconstruct a.jpg -o a.vzgs --device cpu", {"a.jpg": jpeg}, r"a\.jpg: "),
        line("empty video", "reconstruct a.mp4 -o a.vzgs --device cpu", {"a.mp4": b""}, r"a\.mp4: the file is empty"),
        *outputs(RECONSTRUCT, ".vzgs", PHOTO),
        *checkpoints("reconstruct {capture} -o a.vzgs --checkpoint a.pth --device cpu"),
    ],
    "render": [
        line("missing", "render gone.vzgs -o a.mp4", says="gone.vzgs: no such file; make a scene with"),
        line("a photo", "render a.jpg -o a.mp4", {"a.jpg": jpeg}, r"a\.jpg: is not a \.vzgs scene"),
        line("empty", "render a.vzgs -o a.mp4", {"a.vzgs": b""}, r"a\.vzgs: the file is empty"),
        line("a web page", "render a.vzgs -o a.mp4", {"a.vzgs": PAGE}, r"a\.vzgs: is a web page"),
        line("a folder of photos", "render d -o a.mp4", PHOTO, "d: "),
        line("a folder to train on", "render {capture} -o a.mp4", says=".*: holds images with cameras; train it first: visionzoo"),
        line("endless", "render {scene} -o a.mp4 --seconds 1e308", says="--seconds must give between 1 and 100,000 frames"),
        line("no such time", "render {scene} -o a.mp4 --time 2", says="--time must be between 0 and 1, got 2"),
        line("no such view", "render {scene} -o a.png --view 99", says="--view must be between 0 and 5, got 99"),
        line("no such view in a video", "render {scene} -o a.mp4 --view 99", says="--view must be between 0 and 5, got 99"),
        line("no such size", "render {scene} -o a.png --resolution big", says="--resolution must be WIDTHxHEIGHT"),
        line("no such device", "render {scene} -o a.png --device abacus", says="unknown device 'abacus'"),
        *outputs(RENDER, ".mp4", {}),
    ],
    "view": [
        line("missing", "view gone.vzgs", says="gone.vzgs: no such file; make a scene with"),
        line("a photo", "view a.jpg", {"a.jpg": jpeg}, r"a\.jpg: is not a \.vzgs scene"),
        line("empty", "view a.vzgs", {"a.vzgs": b""}, r"a\.vzgs: the file is empty"),
        line("a web page", "view a.vzgs", {"a.vzgs": PAGE}, r"a\.vzgs: is a web page"),
        line("an LFS pointer", "view a.vzgs", {"a.vzgs": POINTER}, r"a\.vzgs: is a Git LFS pointer"),
        line("a folder of photos", "view d", PHOTO, "d: "),
        line("no such port", "view {scene} --port 70000", says="--port must be a number from 1 to 65535, got 70000"),
        line("busy port", "view {scene} --port {busy}", says=r"port \d+ on 127\.0\.0\.1 is in use; choose another with"),
        line("no such host", "view {scene} --host nowhere.invalid", says=r"--host nowhere\.invalid: no such address"),
        line("no such mode", "view {scene} --mode fast", says=".*--mode"),
        line("no frames", "view {scene} --fps 0", says="--fps must be above 0 and at most 240, got 0"),
        line("no such device", "view {scene} --device abacus", says="unknown device 'abacus'"),
    ],
    "weights convert": [
        line("output is the input", "weights convert a.safetensors a.safetensors --overwrite", {"a.safetensors": b"x"},
             r"a\.safetensors: is an input, which is never overwritten"),
        line("folder", "weights convert d out.safetensors", says="d: is a folder, expected a checkpoint", folders=["d"]),
        line("no such model", "weights convert a.pth o.safetensors --model nosuch", {"a.pth": b"x"}, "there is no model"),
        *outputs(CONVERT, ".safetensors", {"a.pth": b"x"}),
        *checkpoints("weights convert a.pth out.safetensors"),
    ],
}  # fmt: skip

for _word in TRAINING:
    _given = f"{_word} --config a.yaml"
    OTHERS[_word] = [
        line("missing configuration", f"{_word} --config superglobal/tinny", says=".*/tinny: no such .*did you mean"),
        line(
            "empty configuration", _given, {"a.yaml": b""}, r"a\.yaml: holds no settings; expected the sections model, "
        ),
        line("a folder as configuration", _given, says=r"a\.yaml: is a folder, expected a .* file", folders=["a.yaml"]),
        line("broken configuration", _given, {"a.yaml": b"a: [1"}, r"a\.yaml, line \d: not valid YAML"),
        line("a photo as configuration", _given, {"a.yaml": jpeg}, r"a\.yaml: not a text file"),
        line(
            "unknown setting", f"{_word} --config shvit/tiny nosuch=1", says="the configuration has no setting 'nosuch'"
        ),
        line(
            "not a setting", f"{_word} --config shvit/tiny trainer", says="'trainer' is not a setting; write key=value"
        ),
    ]
OTHERS["fit"] += [
    line("unknown setting of the trainer", "fit --config shvit/tiny trainer.nosuch=1", says="trainer has no setting"),
    line("missing data", "fit --config dehazexl/nano data.root=nowhere", says="nowhere: "),
    *checkpoints("fit --config shvit/tiny ckpt_path=a.ckpt", "a.ckpt"),
]
OTHERS["validate"] += checkpoints("validate --config shvit/tiny ckpt_path=a.ckpt", "a.ckpt")[3:4]

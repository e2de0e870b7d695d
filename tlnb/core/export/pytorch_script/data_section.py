"""The sections of a script that read, choose and prepare the data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

from tlnb.core.data.augment import CONTRAST, SHEAR, SHIFT, TURN, ZOOM
from tlnb.core.data.builtin import DIGITS_TEST
from tlnb.core.data.decoding import FINER, LONGEST, MAX_PIXELS, formats
from tlnb.core.data.image_listing import RAW
from tlnb.core.data.splits import TEST_SHARE, VAL_SHARE
from tlnb.core.export.pytorch_script.script_facts import ScriptFacts
from tlnb.core.export.pytorch_script.template import WIDTH, fill, noted, quoted


def data_settings(case: ScriptFacts) -> list[str]:
    """Settings: where the data is and how much of it is used."""
    return SETTINGS[case.source](case)


def data_sections(case: ScriptFacts) -> Iterator[str]:
    """The functions from files to the network's input."""
    flags, values = _flags(case), _values(case)
    for when, template in (
        *READ[case.source],
        ("sized", FIT_SIZE),
        ("", NORMALISE),
        ("augmented", AUGMENT),
    ):
        if not when or flags[when]:
            yield fill(template, flags, values)


def count(case: ScriptFacts) -> str:
    """The number of classes, as an expression in the script."""
    return "len(CLASSES)" if case.source == "folder" else "CLASSES"


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


def _digits_settings(case: ScriptFacts) -> list[str]:
    return [f"CLASSES = {len(case.data.classes)}", *_amounts(case)]


def _folder_settings(case: ScriptFacts) -> list[str]:
    folders = ", ".join(folder for _, folder in case.data.folders)
    holds = (
        f"holds {folders}, each with one folder per class"
        if folders
        else "holds one folder per class"
    )
    return [
        *noted(f"FOLDER = Path({quoted(case.data.request.source)})", holds),
        _classes(case),
        *_amounts(case),
        f"EDGE = {case.data.edge}  # photos are read at this edge, in pixels",
    ]


def _file_settings(case: ScriptFacts) -> list[str]:
    file = quoted(re.sub(r"[^\w.-]+", "-", case.data.name) + ".npz")
    return [
        f"FILE = {file}  # written by: tl.dataset.save({file})",
        f"CLASSES = {len(case.data.classes)}",
    ]


SETTINGS: dict[str, Callable[[ScriptFacts], list[str]]] = {
    "digits": _digits_settings,
    "folder": _folder_settings,
    "file": _file_settings,
}


def _classes(case: ScriptFacts) -> str:
    """The class names, or if there are many, the code that finds them."""
    line = f"CLASSES = ({', '.join(map(quoted, case.data.classes))})"
    if len(line) <= WIDTH:
        return line
    train = dict(case.data.folders).get("train")
    top = f"(FOLDER / {quoted(train)})" if train else "FOLDER"
    name = (
        "p.name"
        if all(map(str.isascii, case.data.classes))
        else 'unicodedata.normalize("NFC", p.name)'
    )
    return f'CLASSES = sorted({name} for p in {top}.iterdir() if p.is_dir() and not p.name.startswith("."))'


def _amounts(case: ScriptFacts) -> list[str]:
    r, flags = case.data.request, _flags(case)
    test, val = (TEST_SHARE if r.test is None else r.test), (VAL_SHARE if r.val is None else r.val)
    lines = {
        "per_class": f"PER_CLASS = {r.per_class}  # labels that are used of each class",
        "limit": f"LIMIT = {r.limit}  # labels that are used, classes in equal parts",
        "holds_test": f"TEST_SHARE = {test:g}  # of the images, to report on",
        "holds_val": f"VAL_SHARE = {val:g}  # of the labels, {_use_of_val(case)}",
    }
    return [
        *(line for flag, line in lines.items() if flags[flag]),
        f"DATA_SEED = {r.seed}  # which images are chosen",
    ]


def _use_of_val(case: ScriptFacts) -> str:
    return "held out to choose with" if case.refits else "to choose the best epoch by"


# ── values and conditions ─────────────────────────────────────────────────────────────────────────


def _flags(case: ScriptFacts) -> dict[str, bool]:
    t, edge, folders, r = (
        case.model.transform,
        case.data.edge,
        dict(case.data.folders),
        case.data.request,
    )
    holds_test = case.source == "folder" and "test" not in folders
    holds_val = case.holds_out and "val" not in folders
    return {
        "flat": not folders,
        "per_class": bool(r.per_class),
        "limit": bool(r.limit),
        "holds_test": holds_test,
        "holds_val": holds_val,
        "holds": holds_test or holds_val,
        "val": case.holds_out,
        "sized": edge != t.size,
        "resized": edge not in (t.size, t.resize),
        "cropped": edge != t.size and t.resize != t.size,
        "transparent": case.data.transparent,
        "accents": not all(map(str.isascii, case.data.classes)),
        "augmented": case.augmented,
        "photo": case.options.augment == "photo",
    }


def _values(case: ScriptFacts) -> dict[str, object]:
    t, flags = case.model.transform, _flags(case)
    chosen = ["train", *(s for s in ("val", "test") if flags[f"holds_{s}"])]
    splits = [s for s in ("train", "val", "test") if s in case.data.splits]
    how = getattr(t, "interpolation", "bilinear")
    folders = {f"{split}_folder": quoted(folder) for split, folder in case.data.folders}
    return {
        "count": count(case),
        "edge": case.data.edge,
        "chosen": ", ".join(chosen),
        "splits": ", ".join(map(quoted, splits)),
        "arrays": f"tuple[{', '.join(['np.ndarray'] * len(chosen))}]"
        if len(chosen) > 1
        else "np.ndarray",
        "rows": " and ".join(filter(None, [", ".join(chosen[:-1]), chosen[-1]])),
        "digits_test": DIGITS_TEST,
        "max_pixels": f"{MAX_PIXELS // 2:_}",
        "finer": FINER,
        "longest": LONGEST,
        "formats": str(formats()).replace("'", '"'),
        "resize": t.resize,
        "interpolation": "" if how == "bilinear" else f"TF.InterpolationMode.{how.upper()}, ",
        "turn": f"{math.degrees(TURN):g}",
        "shear": SHEAR,
        "zoom": ZOOM,
        "shift": 2 * SHIFT,
        "contrast": CONTRAST,
        "layout": "channels_last"
        if case.model.transform.layout == "channels_last"
        else "contiguous_format",
        "others": ", ".join(map(quoted, RAW)),
        "train_folder": "",
        "val_folder": "",
        "test_folder": "",
        **folders,
        "more": ", mirrored or not, lighter or darker" if flags["photo"] else "",
    }


# ── which images ──────────────────────────────────────────────────────────────────────────────────

HOLD_OUT = '''
def hold_out(rows: np.ndarray, labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split off the last `share` of each class."""
    held = []
    for c in np.unique(labels[rows]):
        mine = rows[labels[rows] == c]
        held.append(mine[len(mine) - min(len(mine) - 1, max(1, round(share * len(mine)))) :])
    out = np.concatenate(held)
    return rows[~np.isin(rows, out)], out
'''

CHOOSE = '''
def choose(labels: np.ndarray) -> $arrays:
    """The rows to use as $rows."""
    train = np.random.default_rng(DATA_SEED).permutation(len(labels))
    turn = np.empty(len(train), dtype=int)  #? !per_class
    for c in range($count):  #? !per_class
        turn[labels[train] == c] = np.arange((labels == c).sum())  #? !per_class
    train = train[np.argsort(turn, kind="stable")]  # classes take turns: any first part holds all of them  #? !per_class
    train, test = hold_out(train, labels, TEST_SHARE)  #? holds_test
    train = np.concatenate([train[labels[train] == c][:PER_CLASS] for c in range($count)])  #? per_class
    train = train[:LIMIT]  #? limit
    train, val = hold_out(train, labels, VAL_SHARE)  #? holds_val
    return $chosen
'''

# ── digits ────────────────────────────────────────────────────────────────────────────────────────

DIGITS = '''
def load_data() -> Data:
    """Handwritten digits by split."""
    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] / 16
    large = F.interpolate(grey, 24, mode="bilinear", align_corners=False)  # 8×8 pixels are few
    images = F.pad(large, (4, 4, 4, 4)).mul(255).round().byte().expand(-1, 3, -1, -1)
    labels = torch.from_numpy(digits.target)
    $chosen = choose(labels[:-$digits_test].numpy())
    return {
        "train": (images[train], labels[train]),
        "val": (images[val], labels[val]),  #? val
        "test": (images[-$digits_test:], labels[-$digits_test:]),
    }
'''

# ── folders ───────────────────────────────────────────────────────────────────────────────────────

READ_PHOTO = '''
Image.MAX_IMAGE_PIXELS = $max_pixels  # photos of more than twice as many are refused


def read(path: Path) -> Tensor | None:
    """One photo (3, EDGE, EDGE): upright, RGB, the middle square; None if it cannot be read."""
    try:
        with Image.open(path, formats=$formats) as image:
            image.draft("RGB", ($finer * EDGE, $finer * EDGE))  # a large JPEG decodes faster when it may decode smaller
            upright = ImageOps.exif_transpose(image).convert("RGB")  #? !transparent
            clear = ImageOps.exif_transpose(image).convert("RGBA")  #? transparent
            white = Image.new("RGBA", clear.size, "white")  #? transparent
            upright = Image.alpha_composite(white, clear).convert("RGB")  #? transparent
            pixels = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
            _, height, width = pixels.shape
            most = $longest * min(height, width)  # further out than that nothing is used
            pixels = TF.center_crop(pixels, [min(height, most), min(width, most)])
            return TF.center_crop(TF.resize(pixels, [EDGE], antialias=True), [EDGE, EDGE])
    except Exception as error:  # damaged files raise many types
        print(f"skipped {path}: {error}")
        return None
'''

READ_FOLDER = '''
# a camera's own files hold a small preview at most
OTHERS = ($others)


def read_photos(folder: Path) -> tuple[Tensor, Tensor]:
    """All photos of a folder of class folders, and their labels."""
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for path in sorted((folder / name).rglob("*")):  #? !accents
        spelt = (p for p in folder.iterdir() if unicodedata.normalize("NFC", p.name) == name)  #? accents
        for path in sorted(path for p in spelt for path in p.rglob("*")):  #? accents
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and path.suffix.lower() not in OTHERS and not hidden:
                image = read(path)
                if image is not None:
                    images.append(image)
                    labels.append(label)
    return torch.stack(images), torch.tensor(labels)
'''

FOLDER = '''
def load_data() -> Data:
    """The photos by split."""
    images, labels = read_photos(FOLDER)  #? flat
    images, labels = read_photos(FOLDER / $train_folder)  #? !flat
    $chosen = choose(labels.numpy())
    return {
        "train": (images[train], labels[train]),
        "val": (images[val], labels[val]),  #? holds_val
        "val": read_photos(FOLDER / $val_folder),  #? val !holds_val
        "test": (images[test], labels[test]),  #? holds_test
        "test": read_photos(FOLDER / $test_folder),  #? !holds_test
    }
'''

# ── a file that tlnb wrote ────────────────────────────────────────────────────────────────────────

FILE = '''
def load_data() -> Data:
    """Images and labels as tlnb had chosen them."""
    held = np.load(FILE)
    splits = ($splits)
    return {s: (torch.from_numpy(held[f"{s}_images"]), torch.from_numpy(held[f"{s}_labels"])) for s in splits}
'''

# By source: the condition for a section, and the section.
READ: dict[str, tuple[tuple[str, str], ...]] = {
    "digits": (("holds", HOLD_OUT), ("", CHOOSE), ("", DIGITS)),
    "folder": (
        ("", READ_PHOTO),
        ("", READ_FOLDER),
        ("holds", HOLD_OUT),
        ("", CHOOSE),
        ("", FOLDER),
    ),
    "file": (("", FILE),),
}

# ── what the network takes ────────────────────────────────────────────────────────────────────────

FIT_SIZE = '''
def fit_size(images: Tensor) -> Tensor:
    """Bring images to the network's input edge."""
    images = TF.resize(images, [$resize, $resize], ${interpolation}antialias=True)  #? resized
    images = TF.center_crop(images, [SIZE, SIZE])  #? cropped
    return images
'''

NORMALISE = '''
def normalise(images: Tensor) -> Tensor:
    """Scale pixels the way the network was trained; channels last makes convolutions faster."""
    mean = torch.tensor(MEAN, device=DEVICE).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=DEVICE).view(3, 1, 1) * 255
    return ((images.float() - mean) / std).contiguous(memory_format=torch.$layout)
'''

AUGMENT = '''
def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved its own way: turned, sheared, scaled, shifted$more."""
    n = len(images)

    def spread(limit: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle, shear = spread(math.radians($turn)), spread($shear)
    wide, high = 1 + spread($zoom), 1 + spread($zoom)
    wide = torch.where(torch.rand(n, generator=generator) < 0.5, -wide, wide)  #? photo
    top = [angle.cos() * wide, shear - angle.sin(), spread($shift)]
    bottom = [angle.sin(), angle.cos() * high, spread($shift)]
    matrix = torch.stack(top + bottom, 1).view(n, 2, 3).to(DEVICE)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    contrast = (1 + spread($contrast)).view(-1, 1, 1, 1).to(DEVICE)  #? photo
    brightness = (spread($contrast) * 128).view(-1, 1, 1, 1).to(DEVICE)  #? photo
    moved = ((moved - 128) * contrast + 128 + brightness).clamp(0, 255)  #? photo
    return moved
'''

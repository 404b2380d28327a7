"""How like real hemispheres are the phantoms? The same measures, by the same code, and one picture of both.

    python benchmarks/realism.py FS_BRAINS                  # a folder with imagesTr and freesurfer_labels, 1 mm
    python benchmarks/realism.py FS_BRAINS --picture docs/phantoms.png

A hemisphere is a T1-weighted image and three masks: cortex, what lies within the white surface, and both together. Pial
and hull areas are of the surfaces of masks (marching cubes), the hull is the mask closed by 15 mm; sulcal depth is the
mean way from the pial surface to the hull, thickness the mean way across the cortex, contrast (white - grey) / white.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from _machine import main as say_where
from scipy import ndimage as ndi
from skimage.measure import marching_cubes, mesh_surface_area

CLOSED = 15.0  # mm, as for the local gyrification index (Schaer et al. 2008)
# FreeSurfer's codes per side: what the white surface holds, with hippocampus and amygdala; cortex, from and to.
CODES = {
    "L": (
        (2, 10, 11, 12, 13, 26, 28, 4, 5, 31, 17, 18),
        ((1000, 1999), (11000, 11999), (3, 3)),
    ),
    "R": (
        (41, 49, 50, 51, 52, 58, 60, 43, 44, 63, 53, 54),
        ((2000, 2999), (12000, 12999), (42, 42)),
    ),
}
CALLOSUM = (251, 255)


def real(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Give (name, image, cortex, inside) of both hemispheres of each brain, left ones mirrored to nothing."""
    for path in sorted((folder / "freesurfer_labels").glob("*.nii.gz")):
        codes = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj).astype(
            int
        )
        image = folder / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz")
        drawn = nib.as_closest_canonical(nib.load(image)).get_fdata(dtype=np.float32)
        middle = _middle(codes)
        for side, (white, cortex) in CODES.items():
            inside = np.isin(codes, white)
            half = np.arange(codes.shape[0])[:, None, None] < middle
            central = (codes >= CALLOSUM[0]) & (codes <= CALLOSUM[1])
            inside |= central & (half if side == "L" else ~half)
            grey = np.zeros(codes.shape, bool)
            for low, high in cortex:
                grey |= (codes >= low) & (codes <= high)
            yield f"{path.name.split('.')[0]} {side}", drawn, grey, inside


def _middle(codes: np.ndarray) -> float:
    """Give the plane between the hemispheres."""
    places = [np.nonzero(codes == code)[0].mean() for code in (2, 41)]
    return float(np.mean(places))


def drawn(count: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Give the same of phantoms."""
    from sulcnet.phantoms.cohort import draw_scan, scans

    for scan in scans(1, count, sites=("clear",), sides=("L", "R")):
        phantom = draw_scan(1, scan, modalities=("t1", "grey_white"))
        t1, tissue = phantom.images
        yield phantom.row["case_id"], t1, tissue == 100, tissue == 200


def measures(
    image: np.ndarray, grey: np.ndarray, inside: np.ndarray
) -> dict[str, float]:
    """Measure a hemisphere at 1 mm."""
    both = np.pad(ndi.binary_fill_holes(grey | inside), int(CLOSED) + 2)
    apart = ndi.distance_transform_edt(~both)
    hull = ndi.distance_transform_edt(apart <= CLOSED) > CLOSED
    to_hull = ndi.distance_transform_edt(hull)
    pial = both & ~ndi.binary_erosion(both)
    grey_, inside_ = (np.pad(mask, int(CLOSED) + 2) for mask in (grey, inside))
    across = ndi.distance_transform_edt(~inside_) + ndi.distance_transform_edt(both)
    white = inside & (ndi.distance_transform_edt(inside) > 2)
    core = grey & (image > 0)
    contrast = 1 - np.median(image[core]) / np.percentile(image[white], 60)
    return {
        "grey / white volume": grey.sum() / inside.sum(),
        "pial / hull area": _area(both) / _area(hull),
        "sulcal depth mm": float(to_hull[pial].mean() - 1),
        "cortical thickness mm": float(across[grey_].mean() - 1),
        "contrast": float(contrast),
        "volume cm3": both.sum() / 1000,
    }


def _area(mask: np.ndarray) -> float:
    smooth = ndi.gaussian_filter(mask.astype(np.float32), 0.7)
    vertices, faces, _, _ = marching_cubes(smooth, 0.5)
    return float(mesh_surface_area(vertices, faces))


def slices(image: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """Cut a left hemisphere: two sagittal slices near the midline, one further out, a coronal and an axial one."""
    x, y, z = ndi.find_objects(inside.astype(int))[0]
    planes = [image[x.stop - deep] for deep in (7, 12, 30)]
    front = y.start + int(0.62 * (y.stop - y.start))
    high = z.start + int(0.62 * (z.stop - z.start))
    return [*planes, image[:, front], image[:, :, high]]


def max_component(mask: np.ndarray) -> np.ndarray:
    """Give the largest connected part of a mask, without slivers across the midline."""
    parts, _ = ndi.label(ndi.binary_opening(mask, iterations=2))
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndi.binary_dilation(largest, iterations=3) & mask


def picture(brains: Path, path: Path) -> None:
    """Draw real hemispheres and phantoms in turns, without saying which is which in their place."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    real_ = [parts for parts in real(brains) if parts[0].endswith("L")]
    ours = list(drawn(9))[::4]
    rows = [row for pair in zip(real_, ours) for row in pair]
    size = {"figsize": (15, 2.7 * len(rows)), "facecolor": "black"}
    figure, axes = plt.subplots(len(rows), 5, **size)
    for line, (name, image, grey, inside) in zip(axes, rows):
        both = ndi.binary_fill_holes(ndi.binary_closing(grey | inside, iterations=3))
        both = max_component(both)
        shown = np.where(both, image, 0)
        white = np.percentile(shown[inside], 95)
        for place, plane in zip(line, slices(shown, both)):
            place.imshow(plane.T, cmap="gray", origin="lower", vmin=0, vmax=white)
            place.axis("off")
        line[0].set_title(name, color="white", fontsize=9, loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=60, facecolor="black")


def main() -> None:
    """Print the table, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("brains", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.picture:
        return picture(args.brains, args.picture)
    say_where()
    found = {}
    for name, make in (("real", real(args.brains)), ("phantoms", drawn(args.count))):
        found[name] = [measures(*parts) for _, *parts in make]
    print(
        f"| measure | real, n {len(found['real'])} | phantoms, n {args.count} | ratio |"
    )
    print("|---|---|---|---|")
    for key in found["real"][0]:
        real_, ours = ([row[key] for row in found[who]] for who in found)
        cells = [f"{np.mean(v):.2f} ± {np.std(v):.2f}" for v in (real_, ours)]
        print(
            f"| {key} | {' | '.join(cells)} | {np.mean(ours) / np.mean(real_):.2f} |"
        )


if __name__ == "__main__":
    main()

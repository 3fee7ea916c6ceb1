"""Resize of an X-ray to the paper's size."""

from collections.abc import Callable

import numpy as np

from radscale.benchmarks.measure import Case, Contestant, Options


def cases(options: Options) -> list[Case]:
    """12-bit noise: the time does not depend on the picture."""
    shape, size_px = ((250, 300), 64) if options.quick else ((2500, 3000), 518)
    image = np.random.default_rng(options.seed).integers(0, 4096, shape).astype(np.uint16)

    def ours() -> Callable[[np.ndarray], np.ndarray]:
        from radscale.datasets.resize import resize_shorter_side

        return lambda picture: resize_shorter_side(picture, size_px)

    def simple_itk() -> Callable[[np.ndarray], np.ndarray]:
        import SimpleITK as sitk

        scale = min(shape) / size_px
        new = [round(side / scale) for side in shape]
        kx, ky = shape[1] / new[1], shape[0] / new[0]
        blur = sitk.SmoothingRecursiveGaussianImageFilter()
        blur.SetSigma([float(np.sqrt((k * k - 1) / (8 * np.log(2)))) for k in (kx, ky)])

        def resize(picture: np.ndarray) -> np.ndarray:
            blurred = blur.Execute(sitk.GetImageFromArray(picture.astype(np.float32)))
            origin = (0.5 * (kx - 1), 0.5 * (ky - 1))
            grid = ((new[1], new[0]), sitk.Transform(), sitk.sitkBSpline, origin, (kx, ky), blurred.GetDirection(), 0.0)
            return np.asarray(sitk.GetArrayFromImage(sitk.Resample(blurred, *grid, sitk.sitkFloat32)))

        return resize

    return [
        Case(
            title=f"resize {shape[0]} x {shape[1]} to {size_px} px, a size met before",
            unit="image",
            workload=lambda _: image,
            contestants=[Contestant("radscale", "radscale", ours), Contestant("SimpleITK", "SimpleITK", simple_itk)],
            rounds=options.repeat or (2 if options.quick else 7),
            difference=lambda a, b: float(np.abs(a - b).max()),
            note="difference in grey levels of 4,096; SimpleITK uses all cores",
        )
    ]

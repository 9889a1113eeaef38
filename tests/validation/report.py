"""Results of the validation tests in, docs/validation.md and its plots out:  python -m tests.validation.report"""

import json
from pathlib import Path
from typing import Any

from tests.validation.conftest import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"
PLOTS = PAGE.with_suffix("")

CHAPTERS = {
    "test_fluid_order": "The fluid alone",
    "test_couette": "The immersed boundary",
    "test_channel": "A cylinder in a channel",
    "test_cylinder": "A cylinder in a wide stream and in fluid at rest",
    "test_beam_alone": "The beam alone",
    "test_filament": "Flexible bodies in a stream",
    "test_dynamics": "Nonlinear dynamics",
}

_INTRODUCTION = """\
# Validation

What the solver of `envs/fluids/` gives, against exact solutions and the literature, at the resolutions and with the
settings that the environments use. Each line is an assertion of a test in `tests/validation/`: the quick ones run in
`make test`, all in `make validate`, which writes `tests/validation/results/` and from it this page. Times are CPU
seconds of one core on {machine}, compilation included where a test was the first to need a kernel.

*Recalled* references were not looked up in their source.

![Every figure against its reference, in units of its tolerance](validation/overview.png)
"""

_PLOTS = {
    "test_fluid_order": "![Errors against resolution](validation/orders.png)",
    "test_channel": "![Drag and lift of case 2D-2](validation/channel.png)",
    "test_cylinder": "![Force on the oscillating cylinder](validation/oscillation.png)",
    "test_filament": "![Tips of the filament and of the flag](validation/tips.png)\n\n"
    "![Work of the heaving fin](validation/energy.png)",
}

_REMARKS = {
    "test_couette": "The immersed boundary is of first order: markers smear a wall over three cells. That they lie "
    "0.4 cells inside the surface makes up for most of it.",
    "test_filament": "The flag of FSI2 is 0.2 D thick, ours is a line with the same mass and stiffness, which "
    "displaces no fluid, so that more of it swings along.",
}


def load() -> list[dict[str, Any]]:
    """Every result, in the order of their names."""
    return [json.loads(path.read_text()) | {"name": path.stem} for path in sorted(RESULTS.glob("*.json"))]


def page(results: list[dict[str, Any]]) -> str:
    """The whole page."""
    machines = sorted({result["machine"] for result in results})
    parts = [_INTRODUCTION.format(machine=" and ".join(machines))]
    for file, title in CHAPTERS.items():
        chapter = [result for result in results if result["file"] == file]
        if not chapter:
            continue
        parts.append(f"## {title}\n\n| case | quantity | got | reference | tolerance | source | CPU s |\n|{'---|' * 7}")
        parts += [row for result in sorted(chapter, key=lambda result: result["slow"]) for row in _rows(result)]
        parts += [f"\n{text}" for text in (_REMARKS.get(file), _PLOTS.get(file)) if text]
        parts.append("")
    return "\n".join(parts)


def _rows(result: dict[str, Any]) -> list[str]:
    rows = []
    for number, figure in enumerate(result["figures"]):
        reference = figure["reference"]
        if isinstance(reference, list):
            low, high = reference
            wanted = f"≤ {high:g}" if low is None else f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"
            tolerance = ""
        else:
            wanted, tolerance = f"{reference:g}", f"{100 * figure['within']:g} %"
        case, seconds = (result["case"], f"{result['cpu_s']:g}") if number == 0 else ("", "")
        cells = case, figure["quantity"], f"{figure['got']:.4g}", wanted, tolerance, figure["source"], seconds
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def draw(results: list[dict[str, Any]]) -> None:
    """Every plot of the page into its folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100})
    PLOTS.mkdir(exist_ok=True)
    curves = {name: curve for result in results for name, curve in result["curves"].items()}

    def finish(figure: Any, name: str) -> None:
        figure.tight_layout()
        figure.savefig(PLOTS / f"{name}.png")
        pyplot.close(figure)

    rows = [
        (f"{result['name'].replace('_', ' ')}: {figure['quantity']}", figure)
        for result in results
        for figure in result["figures"]
        if figure["within"]
    ]
    figure, axes = pyplot.subplots(figsize=(6.5, 0.7 + 0.17 * len(rows)))
    axes.axvspan(-1, 1, color="0.93")
    axes.axvline(0, color="0.6", lw=0.8)
    for place, (_, shown) in enumerate(rows):
        axes.plot((shown["got"] / shown["reference"] - 1) / shown["within"], -place, "o", color="C0", ms=4)
    axes.set_yticks([-place for place in range(len(rows))], [name for name, _ in rows])
    axes.set_xlim(-1.2, 1.2)
    axes.set_ylim(0.5 - len(rows), 0.5)
    axes.set_xlabel("deviation, in tolerances")
    finish(figure, "overview")

    figure, axes = pyplot.subplots(figsize=(4.5, 3.4))
    for name in ("Poiseuille", "Taylor–Green", "drag of 2D-1", "torque of a turning cylinder", "velocity around it"):
        axes.loglog(curves[name]["x"], curves[name]["y"], "o-", ms=3, lw=1, label=name)
    for order, start in ((1, 0.05), (2, 0.03)):
        axes.loglog([8, 48], [start, start / 6**order], "--", color="0.6", lw=0.8)
        axes.annotate(f"order {order}", (48, start / 6**order), color="0.4")
    axes.set_xticks([8, 16, 32, 64], ["8", "16", "32", "64"])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("cells across (per diameter; per radius of the turning one)")
    axes.set_ylabel("relative error")
    axes.legend(frameon=False, fontsize=7)
    finish(figure, "orders")

    figure, (drag, lift) = pyplot.subplots(2, 1, figsize=(4.5, 3), sharex=True)
    for axes, name, label, levels in (
        (drag, "2D-2 drag", "$C_D$", (3.164263, 3.227393)),
        (lift, "2D-2 lift", "$C_L$", (2.007871 / 2, -2.007871 / 2)),
    ):
        axes.plot(curves[name]["x"], curves[name]["y"], lw=1)
        for level in levels:
            axes.axhline(level, color="0.5", ls="--", lw=0.8)
        axes.set_ylabel(label)
    lift.set_xlabel("time in D/U; dashed: extremes of the reference")
    finish(figure, "channel")

    figure, axes = pyplot.subplots(figsize=(4.5, 2.6))
    axes.plot(curves["oscillation, computed"]["x"], curves["oscillation, computed"]["y"], lw=1.2, label="computed")
    published = curves["oscillation, published"]
    axes.plot(published["x"], published["y"], "--", color="0.4", lw=1, label="Morison with the published coefficients")
    axes.set_xlabel("time in cycles")
    axes.set_ylabel("force over ½ρU²D")
    axes.legend(frameon=False, fontsize=7)
    finish(figure, "oscillation")

    figure, (filament, flag) = pyplot.subplots(2, 1, figsize=(5, 4))
    filament.plot(curves["filament"]["x"], curves["filament"]["y"], lw=0.9)
    filament.set(xlabel="time in L/U", ylabel="filament's tip, L")
    flag.plot(curves["flag"]["x"], curves["flag"]["y"], lw=0.9)
    flag.set(xlabel="time in s", ylabel="flag's tip (FSI2), mm")
    for axes, levels in ((filament, (0.35, 0.38, -0.35, -0.38)), (flag, (81.83, -79.37))):
        for level in levels:
            axes.axhline(level, color="0.5", ls="--", lw=0.8)
    finish(figure, "tips")

    figure, axes = pyplot.subplots(figsize=(4.5, 2.8))
    for name in ("root", "into the fluid", "held by the fin", "lost"):
        axes.plot(curves[f"work, {name}"]["x"], curves[f"work, {name}"]["y"], lw=1.2, label=name)
    axes.set_xlabel("time in cycles")
    axes.set_ylabel("work over ½ρU²L²")
    axes.legend(frameon=False, fontsize=7)
    finish(figure, "energy")


if __name__ == "__main__":
    results = load()
    PAGE.write_text(page(results))
    draw(results)

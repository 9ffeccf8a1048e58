"""Tables for people: every figure of ``evaluate`` as Markdown, each with its definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NAMES = {
    "tokenizer": "tokenizer alone (ceiling)",
    "world": "**world**",
    "other_actions": "world, another episode's actions",
    "copy_last": "copy of the last frame",
}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; numbers are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join([" --- ", *[" ---: "] * (len(head) - 1)]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number as people read it; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the figures of ``evaluate`` as Markdown."""
    world, data, made = report["world"], report["data"], report["made"]
    sampling, versions = world["sampling"], made["versions"]
    temperature = f", temperature {sampling['temperature']}" if sampling.get("temperature", 1) != 1 else ""
    intro = (
        f"World `{world['name']}`, {sampling['steps']} denoising steps a frame, context level {sampling['context_level']}{temperature}; "
        f"{data['segments']} segments of {data['episodes']} {data['split']} episodes of `{data['name']}`, "
        f"{data['context']} context frames, recorded actions.\n"
        f"Measured {made['date']} with worldsim {versions['worldsim']}, torch {versions['torch']}, {made['cpu']}.\n"
    )
    return "\n".join([f"# Figures of {world['name']}\n", intro, *figures(report)])


def figures(report: Mapping[str, Any]) -> list[str]:
    """Return the sections of figures that were measured, each with its heading."""
    sections = {
        "open_loop": _open_loop,
        "generalisation": _generalisation,
        "long": _long,
        "distance": _distance,
        "state": _state,
        "fidelity": _fidelity,
        "drift": _drift,
        "reward": _reward,
        "endings": _endings,
        "memory": _memory,
        "uncertainty": _uncertainty,
        "labels": _labels,
    }
    return [write(report[name]) for name, write in sections.items() if name in report]


def _open_loop(part: Mapping[str, Any]) -> str:
    head = ["", *(f"step {step}" for step in part["steps"])]
    lines = ["## Open loop\n"]
    for title, key, digits in (("PSNR to the real frames, dB", "psnr", 2), ("SSIM", "ssim", 3)):
        lines.append(
            table([title, *head[1:]], [[_NAMES[name], *(number(x, digits) for x in values)] for name, values in part[key].items()])
        )
    margins = part["margins"]
    for name, said in (("copy_last", "over the copy of the last frame"), ("other_actions", "over another episode's actions")):
        if name in margins:
            m = margins[name]
            verdict = "met" if m["met"] else "missed"
            lines.append(
                f"- Step {margins['step']}: {m['db']:+.2f} ± {m['standard_error']:.2f} dB {said} (bar {m['bar']:.0f} dB: {verdict})."
            )
    lines.append(f"- Latents that are turned and shifted decode at {part['moved']:.1f} dB to the frame turned and shifted alike.")
    return "\n".join(lines) + "\n"


def _generalisation(part: Mapping[str, Any]) -> str:
    doubt = "" if part["own"] else " The world names another dataset than this as what it learned from, which may hold them or not."
    note = (
        "Advantage over the copy of the last frame on episodes of the train split, one segment each, beside that on the episodes above. "
        f"What is lost between them is what more recordings may bring; the rest takes more training, or a larger network.{doubt}\n"
    )
    said = {"train": "train split", "unseen": "as above"}
    rows = [
        [f"{text}, {part[name]['segments']} segments of {part[name]['episodes']} episodes", *_with_error(part[name])]
        for name, text in said.items()
    ]
    head = ["PSNR over the copy, dB", *(f"step {step}" for step in part["steps"])]
    return "## Generalisation\n\n" + note + "\n" + table(head, [*rows, ["lost", *_with_error(part["lost"])]])


def _with_error(part: Mapping[str, Any]) -> list[str]:
    return [f"{db:+.2f} ± {error:.2f}" for db, error in zip(part["db"], part["standard_error"], strict=True)]


def _long(part: Mapping[str, Any]) -> str:
    note = f"{part['segments']} segments of {part['horizon']} steps each, as above"
    note += (
        f"; {part['asked']} steps were asked for, which the recorded episodes are too short for" if part["asked"] > part["horizon"] else ""
    )
    head = ["", *(f"step {step}" for step in part["steps"])]
    rows = [
        [f"{title}, {_NAMES[name]}", *(number(x, digits) for x in part[key][name])]
        for title, key, digits in (("PSNR dB", "psnr", 2), ("SSIM", "ssim", 3))
        for name in part[key]
    ]
    return "## Open loop, long\n\n" + note + ".\n\n" + table(head, rows)


def _distance(part: Mapping[str, Any]) -> str:
    said = {
        **{name: _NAMES[name] for name in ("world", "other_actions", "copy_last")},
        "blurred": "the real frames, blurred by 1 px in 64",
        "noised": "the real frames, noise of 16/255",
        "elsewhere": "real frames of the train split, other places",
    }
    note = (
        "Frechet distance `|m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2))` (Heusel et al. 2017, equation 6) to the real clips of the same "
        f"segments and steps, in features of {part['network']} along their {part['directions']} main directions, where real clips have a "
        "total variance of 1. No Inception network is in it: compare worlds on the same dataset alone. "
        f"{part['frames']} clips a figure: {part['width']} steps round each step are pooled. A perfect world gets 0; a copy of the last "
        "frame is a real frame, so it is near, as a set.\n"
    )
    head = ["distance to real clips", *(f"step {step}" for step in part["steps"])]
    rows = [[text, *(number(x, 3) for x in part[name])] for name, text in said.items()]
    return "## Frozen-feature Frechet distance\n\n" + note + "\n" + table(head, rows)


def _fidelity(part: Mapping[str, Any]) -> str:
    note = (
        f"A small inverse-dynamics network, trained on real clips of {part['clip']} frames alone, tells the action between the second "
        "frame and the third. Accuracy is balanced: the mean over classes of the share that is told, where a number's classes are thirds "
        "of its range. `tokenizer` are real clips that went through the tokenizer: what is lost there a world can hardly show. `other` are "
        "imagined clips under another episode's actions, which are then to be told.\n"
    )
    kinds = ("real", "tokenizer", "world", "other_actions")
    head = ["balanced accuracy", "guess", "real clips", "tokenizer", "imagined", "imagined, other"]
    head += ["correlation real / imagined", "R² real / imagined"]
    rows = []
    for name, period in part["periods"].items():
        steps = f"{name} steps" if name == "all" else f"steps {period['steps'][0]} to {period['steps'][1]}"
        for own, values in period["parts"].items():
            right = values["accuracy"]
            both = [
                " / ".join(number(values[key][kind]) for kind in ("real", "world")) if key in values else "–"
                for key in ("correlation", "r2")
            ]
            rows.append([f"`{own}`, {steps}", number(values["guess"]), *(number(right[kind]) for kind in kinds), *both])
        mean = period["mean"]
        rows.append([f"mean, {steps}", number(mean["guess"]), *(number(mean[kind]) for kind in kinds), "", ""])
    lines = [
        f"- {'All' if name == 'all' else name.capitalize()} steps: imagined over real {period['ratio']:.3f} (bar {period['bar']:.2f}: "
        f"{'met' if period['met'] else 'missed'}; the tokenizer alone {period['ceiling']:.3f})."
        for name, period in part["periods"].items()
        if "ratio" in period
    ]
    return "## Action fidelity\n\n" + note + "\n" + table(head, rows) + "\n" + "\n".join(lines) + "\n"


def _drift(part: Mapping[str, Any]) -> str:
    band = f"{1 - 2 * part['edge']:.1%} of real clips"
    note = (
        f"A policy drives the world for {part['steps']} steps in {part['rows']} rows; endings are ignored. A step is in the real range "
        f"where every state that the probe reads, and every measure of texture (differences of neighbouring pixels at three scales) and "
        f"motion, lies where {band} do, and its colours on an 8x8 grid are no farther from the mean, by Mahalanobis distance, than those "
        f"of {1 - part['edge']:.1%}. A row fails where {part['sustained']} steps in a row are outside. Real held-out clips are in it "
        f"for {part['real']:.1%}.\n"
    )
    head = [
        "driven by",
        "steps in the real range",
        "rows that fail",
        "median step of failure",
        "earliest",
        "longest stretch inside",
        "mostly outside by",
    ]
    rows = []
    for name, own in part["policies"].items():
        began = [step for step in own["first_failure"] if step is not None]
        worst, share = max(own["outside"].items(), key=lambda item: item[1])
        rows.append(
            [
                name,
                f"{own['inside']:.1%}",
                f"{own['failed']} of {own['rows']}",
                own["median_failure"] or "none",
                min(began, default="none"),
                own["longest"],
                f"`{worst}` ({share:.1%})",
            ]
        )
        if name in part["source"]:
            rows.append(_driven_source(name, part["source"][name]))
    left = "".join(f"\n- `{name}` was left out: {why}.\n" for name, why in part["left_out"].items())
    bar = f"\n- Bar: {part['bar']:.0%} of steps in the real range.\n"
    if part["source"]:
        bar += "- `the source` are recorded drives of the source itself under the same policy, as long, or as long as its episodes go, "
        bar += "in all as many steps.\n"
    return "## Drift\n\n" + note + "\n" + table(head, rows) + bar + left


def _driven_source(name: str, part: Mapping[str, Any]) -> list[Any]:
    worst, share = max(part["outside"].items(), key=lambda item: item[1])
    return [f"{name}, the source ({part['steps']:,} steps)", f"{part['inside']:.1%}", "", "", "", "", f"`{worst}` ({share:.1%})"]


def _reward(part: Mapping[str, Any]) -> str:
    rows = [
        ["correlation with the true reward, per step", number(part["correlation_per_step"])],
        [f"correlation of the sums over {part['steps']} steps", number(part["correlation_of_sums"])],
        ["mean error of the sums", number(part["error_of_sums"])],
        ["slope of true over predicted sums (1: calibrated)", number(part["slope_of_sums"])],
        ["mean true reward / predicted", f"{part['mean_true']:.3f} / {part['mean_predicted']:.3f}"],
    ]
    return "## Reward\n\n" + table(["open loop", "value"], rows)


def _endings(part: Mapping[str, Any]) -> str:
    if not part["positives"]:
        return f"## Endings\n\nNone of the {part['negatives']} stretches that were looked at ended by termination.\n"
    note = (
        f"Rollouts of {part['horizon']} steps under recorded actions: {part['positives']} whose last step terminated the episode, "
        f"{part['negatives']} without an end. A rollout's score is the probability that it ended at any step, `1 - prod(1 - p)`.\n"
    )
    verdicts = {"rule": f"`p > {part['threshold']:.2g}` at some step, as environments end", "score": "score > 0.5"}
    if part["tuned"]:
        verdicts["tuned"] = f"score > {part['tuned']['threshold']:.3f}, the best on the train split"
    rows = [[text, *(number(part[key][x]) for x in ("f1", "precision", "recall"))] for key, text in verdicts.items()]
    told = part["calibration"]
    more = [
        ["area under the ROC curve of the end probability, steps", number(part["auc"])],
        ["the same of the score, rollouts", number(part["auc_rollouts"])],
        ["found, and no more than 4 steps early", f"{part['on_time']} of {part['positives']}"],
        [
            "mean end probability: foretold / found (in the whole data)",
            f"{told['foretold']:.4f} / {told['found']:.4f} ({told['natural']:.4f})",
        ],
        ["Brier score / that of always telling the share found", f"{told['brier']:.4f} / {told['brier_base']:.4f}"],
    ]
    return "## Endings\n\n" + note + "\n" + table(["", "F1", "precision", "recall"], rows) + "\n" + table(["", "value"], more)


def _memory(part: Mapping[str, Any]) -> str:
    if not part["segments"]:
        return "## Memory\n\nNo recorded stretch turns away and comes back.\n"
    note = f"{part['segments']} recorded stretches that look away and come back, {part['steps']:.0f} steps on average.\n"
    said = {
        "real": "first sight and real frame on return (most there is to reach)",
        "world": "first sight and imagined frame on return",
        "away": "first sight and imagined frame while away (what forgetting gives)",
        "world_to_real": "imagined and real frame on return",
    }
    rows = [[text, number(part[name]["psnr"]), number(part[name]["ssim"], 3)] for name, text in said.items()]
    return "## Memory\n\n" + note + "\n" + table(["", "PSNR dB", "SSIM"], rows)


def _uncertainty(part: Mapping[str, Any]) -> str:
    rows = [
        ["area under the ROC curve for errors above their 90th percentile", number(part["auroc"], 3)],
        ["the same with the number of the step as the score", number(part["auroc_age"], 3)],
        ["correlation with the logarithm of the error", number(part["correlation"])],
        [f"frames worse than {part['threshold_psnr']:.1f} dB: foretold / found", f"{part['foretold']:.1%} / {part['found']:.1%}"],
    ]
    return "## Uncertainty\n\n" + table(["all frames of the rollouts", "value"], rows)


def _labels(part: Mapping[str, Any]) -> str:
    said = {"tokenizer": "real frames", "world": "**imagined frames**", "copy_last": "truth of the last context frame"}
    head = ["IoU with the source's segmentation", *(f"step {step}" for step in part["steps"])]
    rows = [[f"mean, {text}", *(number(x, 3) for x in part[name]["mean"])] for name, text in said.items()]
    for k, own in enumerate(part["classes"]):
        if any(each[k] is not None for each in part["world"]["each"]):
            rows += [[f"`{own}`, {text}", *(number(each[k], 3) for each in part[name]["each"])] for name, text in said.items()]
    return "## Labels beside pixels\n\n" + table(head, rows)


def _state(part: Mapping[str, Any]) -> str:
    said = {"guess": "guess", "probe_real": "probe, real frames", "probe_imagined": "probe, imagined frames", "head": "world's own head"}
    first = next(iter(part["figures"][part["names"][0]].values()))
    kinds = [kind for kind in said if kind in first]
    rows = [
        [f"`{name}`, step {step}", *(_errors(values[kind]) for kind in kinds)]
        for name in part["names"]
        for step, values in part["figures"][name].items()
    ]
    note = "Mean / median absolute error in the source's units (correlation with the true value). `guess` always gives the same answer.\n"
    note += "The probe is a small network that was trained on real frames alone.\n" if "probe_real" in first else ""
    note += (
        "The world's own head has recall: rollouts begin from the recorded state of the last context frame.\n" if part.get("recall") else ""
    )
    told = kinds[1:]
    brief = [["**accuracy**: correlation over all steps, mean over names", *(number(part["accuracy"][kind], 3) for kind in told)]]
    brief += [
        [f"error over the guess's, mean over names, step {step}", *(number(values[kind], 3) for kind in told)]
        for step, values in part["normalised_error"].items()
    ]
    whole = table(["", *(said[kind] for kind in kinds)], rows)
    return "## State read back\n\n" + note + "\n" + table(["", *(said[kind] for kind in told)], brief) + "\n" + whole


def _errors(values: Mapping[str, Any]) -> str:
    correlated = "" if values["correlation"] is None else f" ({values['correlation']:.2f})"
    return f"{values['error']:.3f} / {values['typical_error']:.3f}{correlated}"

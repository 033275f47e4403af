"""What a run of `experiments.cats_dogs` leaves: result, figures and report."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxnets import console, data, train
from flaxnets.report import figures, html
from flaxnets.train import metrics


def finish(
    run_folder: train.RunFolder,
    result: dict[str, Any],
    pictures: data.Pictures,
    logits: np.ndarray,
    classes: tuple[str, ...],
    fitted: train.Fitted,
) -> None:
    """Leaves result, figures and report."""
    labels = pictures.split().labels
    tested = train.scores(logits, labels)
    measured = metrics.report(logits, labels, len(classes))
    low, high = measured["accuracy_interval"]
    result = {
        **result,
        "test_accuracy": tested["accuracy"],
        "test_loss": tested["loss"],
        "metrics": measured,
    }
    run_folder.write_json("result.json", result)
    probabilities = train.probabilities(logits)
    own = probabilities[np.arange(len(labels)), labels]
    worst = np.argsort(own, kind="stable")[:24]
    drawn = {
        "curves": (
            "Loss and accuracy",
            "Means over each epoch's training batches, and over all test pictures "
            "after it.",
            figures.curves(fitted.records),
        ),
        "confusion": (
            "What is taken for what",
            "Each row is a true class, each column a prediction, on the test pictures.",
            figures.confusion(np.array(measured["confusion_matrix"]), classes),
        ),
        "mistakes": (
            "The most wrong pictures",
            "Test pictures to which the network gives the least probability of being "
            "what they are.",
            figures.mistakes(
                pictures[worst], labels[worst], probabilities[worst], classes
            ),
        ),
    }
    run_folder.path("figures").mkdir(exist_ok=True)
    sections = []
    for name, (title, text, figure) in drawn.items():
        path = run_folder.path(f"figures/{name}.png")
        figures.save(figure, path)
        sections.append(html.Section(title, text, path))
    certificate = result.get("freeze_certificate")
    if certificate:
        shown = {
            name: value
            for name, value in certificate.items()
            if name != "trained_leaves"
        }
        lines = "\n".join(f"{name:24} {value}" for name, value in shown.items())
        sections.append(
            html.Section(
                "What was frozen",
                "Frozen parameters and statistics before and after, as SHA-256, and "
                "what was not done or kept for them.",
                lines,
            )
        )
    skipped = [line for lines in result["skipped_pictures"].values() for line in lines]
    if skipped:
        sections.append(
            html.Section("Pictures that could not be read", "", "\n".join(skipped))
        )
    names = (
        "mode",
        "backbone",
        "weights",
        "head",
        "test_accuracy",
        "training_pictures",
        "epochs",
        "trainable_parameters",
        "features_seconds",
        "train_seconds",
        "backend",
    )
    html.write(
        run_folder.path("report.html"),
        f"{' or '.join(classes)}: {tested['accuracy']:.2%} of the test pictures right",
        summary={
            **{name: result[name] for name in names},
            "mode": result["mode"].replace("_", " "),
            "weights": Path(result["weights"]).name,
        },
        sections=sections,
    )
    for line in skipped:
        console.say(f"skipped {line}")
    console.say(
        f"test accuracy {tested['accuracy']:.2%} (95 % interval {low:.2%} to "
        f"{high:.2%}); report: {run_folder.path('report.html')}"
    )

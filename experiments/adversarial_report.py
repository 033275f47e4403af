"""What a run of `experiments.adversarial` leaves: figures, tables, a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import adversarial_figures as drawn
from experiments import adversarial_scores as scores
from experiments import adversarial_training as training
from flaxnets import data, train
from flaxnets.report import figures, html

# The trainings of generators, in words, and those whose pictures are shown.
GENERATORS = {
    "generator": "against the plain classifier",
    "game": "in the game",
    "fresh_game": "anew against the game's classifier",
    "fresh_pgd": "anew against that of PGD's pictures",
    "fresh_trades": "anew against that of TRADES",
    "fresh_fgsm": "anew against that of FGSM's pictures",
}
SHOWN = ("generator", "game", "fresh_game")


def write(
    folder: train.RunFolder,
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    noises: Mapping[str, scores.Noise],
    pictures: data.Split,
    class_names: Sequence[str],
) -> None:
    """Draws the figures, and the page that holds them and the tables.

    Args:
        folder: of the run.
        result: as it is stored.
        rows: of the classifiers and of the transfer, with their texts.
        noises: what each generator makes, by the name of its training.
        pictures: that were attacked.
        class_names: names that labels index.
    """
    folder.path("figures").mkdir(exist_ok=True)
    epsilon = result["epsilon"]

    def kept(name: str, figure: Any) -> Path:
        path = folder.path(f"figures/{name}.png")
        figures.save(figure, path)
        return path

    sections = [
        html.Section(
            "What each classifier withstands",
            f"On {result['test_pictures']:,} held-out pictures, with changes of at "
            f"most {epsilon:.4g} of each value. A picture counts as withstood in the "
            "column of all attacks only if none of them broke it, AutoAttack's and a "
            "new generator's for this very classifier included. Seconds are those of "
            "the training steps, for the game with the plain training before it, but "
            "without that of weights that were given. Each is the network of the last "
            "step; none was chosen by these numbers.",
            scores.table(result["table"]),
        )
    ]
    for name in SHOWN:
        words, noise = GENERATORS[name], noises[name]
        numbers = noise.numbers
        sections += [
            html.Section(
                f"Noise of the generator trained {words}",
                f"With it, made in one pass of the generator, "
                f"{numbers['misclassified']:.1%} of all pictures are misread, without "
                f"it {1 - noise.found.accuracy_before:.1%}. The first pictures that "
                "are read rightly without it:",
                kept(
                    f"examples_{name}",
                    drawn.examples(
                        pictures.images,
                        noise.found,
                        class_names,
                        epsilon,
                        "Original, noise, result",
                    ),
                ),
            ),
            html.Section(
                "What its pictures are taken for",
                f"{numbers['commonest_share']:.1%} of those that it broke are taken "
                "for one and the same class.",
                kept(
                    f"taken_for_{name}", figures.confusion(noise.confusion, class_names)
                ),
            ),
        ]
    sections += [
        html.Section(
            "The game over time",
            "Both go on learning in the same steps, with opposite objectives: the "
            "generator's loss is by how many logits the true class is ahead, down to "
            f"{training.CONFIDENCE:g} behind, the classifier's the cross-entropy of "
            "pictures with noise and of clean ones. PGD is no part of the game.",
            kept(
                "game",
                drawn.over_time(result["history"]["game"], "Generator and classifier"),
            ),
        ),
        html.Section(
            "What kind of noise it is",
            "As it is shown, cut to [0, 1] with the picture. Spectra have the lowest "
            "frequency in the middle.",
            kept(
                "kinds",
                drawn.kinds(
                    {name: noise.mean for name, noise in noises.items()},
                    {name: noise.spectrum for name, noise in noises.items()},
                    epsilon,
                    "Mean noise and spectrum of each generator",
                ),
            ),
        ),
        html.Section(
            "The same in numbers",
            "At the bound: the share of pixels there. Common: the mean noise's share "
            "of all energy, 100% where the noise is the same for every picture. Low: "
            "the share of periods of 8 pixels and more, beside white noise's. One "
            "class: the share of misread pictures that are taken for the commonest.",
            _kinds(noises),
        ),
    ]
    for row in rows:
        if "defence" in row:
            name = row["defence"]
            figure = drawn.by_epsilon(row["evaluated"], f"Classifier: {name}")
            sections += [
                html.Section(
                    f"Accuracy against epsilon: {name}",
                    "Noise of a generator is made smaller to have a smaller epsilon.",
                    kept(f"epsilon_{name}", figure),
                ),
                html.Section(f"All attacks: {name}", "", row["text"]),
            ]
        elif "transfer" in row:
            sections.append(
                html.Section(
                    "Made on one, tried on another",
                    "Adversarial pictures made on the classifier of a row, tried on "
                    "that of each column.",
                    row["text"],
                )
            )
    html.write(
        folder.path("report.html"),
        "Learned noise, and classifiers that meet it",
        summary={
            "dataset": result["dataset"],
            "classifier": result["classifier"],
            "epsilon": epsilon,
            "test_pictures": result["test_pictures"],
            "misclassified_by_noise": noises["generator"].numbers["misclassified"],
            "game_under_all_attacks": next(
                (
                    row["worst_case_accuracy"]
                    for row in result["table"]
                    if row["defence"] == "game"
                ),
                "not asked for",
            ),
        },
        sections=sections,
    )


def _kinds(noises: Mapping[str, scores.Noise]) -> str:
    heads = ("generator", "misread", "mean L2", "at the bound", "common")
    heads += ("low", "low of white", "one class")
    return html.table(
        heads,
        [
            (
                GENERATORS[name],
                f"{noise.numbers['misclassified']:.2%}",
                f"{noise.numbers['l2_mean']:.2f}",
                *(
                    f"{noise.numbers[number]:.1%}"
                    for number in (
                        "at_bound_share",
                        "common_share",
                        "low_frequency_share",
                        "low_frequency_share_of_white_noise",
                        "commonest_share",
                    )
                ),
            )
            for name, noise in noises.items()
        ],
    )

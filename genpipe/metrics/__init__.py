"""Scores of a set of samples, one file each: arrays in, numbers out, float64 throughout, the source named.

Each file has a VERSION, raised when its numbers change: it stands in the metric cards, and figures of two versions are
not compared.

`SCORES` says what each number means; the report prints it and the gate reads from it which way is better.
"""

from typing import Literal, NamedTuple

Better = Literal["lower", "higher", "like real"]


class Score(NamedTuple):
    title: str
    better: Better
    meaning: str

    @property
    def noun(self) -> str:
        """The title within a sentence, where only the names of people begin with a capital letter."""
        return self.title if self.title.startswith("Fréchet") else self.title.lower()


SCORES = {
    "frechet_distance": Score(
        "Fréchet distance",
        "lower",
        "How far the means and covariances of the features of samples and of held-out data lie apart.",
    ),
    "kernel_distance": Score(
        "Kernel distance",
        "lower",
        "The same question, class by class if there are labels, without the bias of small sets: "
        "0 on average for samples of the true distribution.",
    ),
    "precision": Score(
        "Precision", "higher", "Share of samples that lie where held-out data lie: are the samples realistic?"
    ),
    "recall": Score(
        "Recall", "higher", "Share of held-out data that lie where samples lie: does the model make all there is?"
    ),
    "density": Score(
        "Density", "higher", "How many held-out examples each sample lies close to; steadier than precision."
    ),
    "coverage": Score(
        "Coverage", "higher", "Share of held-out examples that have a sample close to them; steadier than recall."
    ),
    "label_agreement": Score(
        "Label agreement", "higher", "Share of samples that the evaluator takes for the label they were asked for."
    ),
    "nearest_ratio": Score(
        "Nearest in training",
        "like real",
        "Median distance of samples to their nearest training example, over that of held-out data; "
        "well below 1 the model repeats what it was shown.",
    ),
    "near_copies": Score(
        "Near copies",
        "like real",
        "Share of samples as near to a training example as the nearest 1 % of held-out data; well above that of real "
        "data is copying.",
    ),
}

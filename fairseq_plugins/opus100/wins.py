"""How many directions one system wins against another: the win ratio of Zhang et al. (2020)."""

from typing import Dict, NamedTuple, Optional, Sequence

TIE = 0.05  # BLEU; two scores that print alike are neither won nor lost


class Wins(NamedTuple):
    """Of one system over a baseline."""

    compared: int  # directions that both have
    won: int
    lost: int
    difference: float  # mean BLEU over those directions

    @property
    def tied(self) -> int:
        return self.compared - self.won - self.lost

    @property
    def ratio(self) -> float:
        """Share of the compared directions that are won, in percent."""
        return 100 * self.won / self.compared


def count_wins(bleu: Dict[str, float], baseline: Dict[str, float], directions: Sequence[str]) -> Optional[Wins]:
    """Compare two systems on the directions that both have; None if there are none.

    Args:
        bleu, baseline: direction -> BLEU.
    """
    differences = [bleu[name] - baseline[name] for name in directions if name in bleu and name in baseline]
    if not differences:
        return None
    won = sum(difference > TIE for difference in differences)
    lost = sum(difference < -TIE for difference in differences)
    return Wins(len(differences), won, lost, sum(differences) / len(differences))

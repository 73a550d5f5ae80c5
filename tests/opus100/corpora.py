"""Tiny corpora in OPUS-100's layout, written by the tests that use them."""

import random
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

WORDS = {
    "de": "der die das Hund Katze Maus sieht hört jagt schnell leise groß klein Straße Haus".split(),
    "en": "the a dog cat mouse sees hears chases quickly quietly big small street house near".split(),
    "fr": "le la les chien chat souris voit entend chasse vite grand petit rue maison près".split(),
    "ru": "собака кошка мышь видит слышит быстро тихо большой малый улица дом рядом он она они".split(),
}


def sentences(language: str, count: int, seed: int) -> List[str]:
    """Random lines of 3 to 9 words."""
    draw = random.Random(f"{language} {seed}")
    return [" ".join(draw.choices(WORDS[language], k=draw.randint(3, 9))) for _ in range(count)]


def write_split(root: Path, pair: str, split: str, sides: Dict[str, Sequence[str]], kind: str = "supervised") -> None:
    """Write one split of one pair; lines get a ``\\n`` and nothing else is done to them."""
    folder = root / "opus-100-corpus" / "v1.0" / kind / pair
    folder.mkdir(parents=True, exist_ok=True)
    for language, lines in sides.items():
        data = "".join(f"{line}\n" for line in lines).encode()
        (folder / f"opus.{pair}-{split}.{language}").write_bytes(data)


def write_pair(root: Path, pair: str, sizes: Dict[str, int], kind: str = "supervised", seed: int = 0) -> None:
    """Write random splits: split -> number of lines."""
    languages = pair.split("-")
    for number, (split, count) in enumerate(sizes.items()):
        sides = {language: sentences(language, count, 10 * seed + number) for language in languages}
        write_split(root, pair, split, sides, kind)


def write_corpus(root: Path) -> Path:
    """de-en, en-fr and en-ru with 300, 200 and 60 train lines, and the zero-shot pairs de-fr and fr-ru."""
    for seed, (pair, lines) in enumerate({"de-en": 300, "en-fr": 200, "en-ru": 60}.items()):
        write_pair(root, pair, {"train": lines, "dev": 12, "test": 15}, seed=seed)
    for pair in ("de-fr", "fr-ru"):
        write_pair(root, pair, {"test": 9}, kind="zero-shot")
    return root


def corpus_file(root: Path, pair: str, split: str, language: str, kind: str = "supervised") -> Path:
    """Path of one file of the layout."""
    return root / "opus-100-corpus" / "v1.0" / kind / pair / f"opus.{pair}-{split}.{language}"


def read_all(folder: Path) -> Dict[str, bytes]:
    """Every file of a folder, by its path inside it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sides_of(folder: Path, split: str, pair: str) -> Tuple[List[List[int]], List[List[int]]]:
    """Both binarised sides of a pair as lists of rows, read by fairseq."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    sets = [MMapIndexedDataset(str(folder / f"{split}.{pair}.{language}")) for language in pair.split("-")]
    return tuple([row.tolist() for row in of] for of in sets)

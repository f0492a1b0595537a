"""Assigning groups of records (patients, or single studies) to train, valid and test."""

import numpy as np

TRAIN, VALID, TEST = range(3)  # positions in ecg_finetune.tables.SPLITS


def wanted_records(n_records: int, valid_fraction: float, test_fraction: float, already: np.ndarray) -> np.ndarray:
    """Return how many more records train, valid and test want, int64 (3,).

    `already` (3,) counts the records that are assigned; `n_records` includes them.
    """
    valid, test = round(valid_fraction * n_records), round(test_fraction * n_records)
    return np.maximum(np.array([n_records - valid - test, valid, test]) - already, 0)


def assign_at_random(sizes: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Assign groups at random so that test and valid get the wanted number of records, and train the rest.

    Groups are taken in a random order; a group that would overfill a split is passed over, so splits end exactly full
    wherever a small enough group is left.

    Parameters
    ----------
    sizes : ndarray of int (groups,)
        Records of each group, in an order that does not depend on the order of the record list.
    wanted : ndarray of int (3,)
        Records wanted by train, valid and test.
    seed : int
        Seed of the random order.

    Returns
    -------
    ndarray of int8 (groups,)
        0 train, 1 valid, 2 test.
    """
    assigned = np.full(len(sizes), TRAIN, dtype=np.int8)
    order = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    size_of = sizes.tolist()
    for split in (TEST, VALID):
        room, passed_over = int(wanted[split]), []
        for position, group in enumerate(order):
            if room == 0:
                passed_over += order[position:]
                break
            if size_of[group] <= room:
                assigned[group] = split
                room -= size_of[group]
            else:
                passed_over.append(group)
        order = passed_over
    return assigned


def assign_stratified(sizes: np.ndarray, label_counts: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Assign groups so that every label is equally frequent in train, valid and test (iterative stratification).

    A patient with 30 records of atrial fibrillation weighs more than one with a single such record, so what is balanced
    is "at least 1, 2, 4, 8, ... records with the label", and the same for records of any kind. What is then missing to
    the wanted number of records is moved in small groups.

    Parameters
    ----------
    sizes, wanted, seed
        As in `assign_at_random`.
    label_counts : ndarray of int (groups, labels)
        How many records of the group have each label.

    Returns
    -------
    ndarray of int8 (groups,)
        0 train, 1 valid, 2 test.
    """
    from iterstrat.ml_stratifiers import IterativeStratification  # imports scikit-learn, which takes a second

    counts = np.column_stack([label_counts, sizes])
    thresholds = 2 ** np.arange(int(np.log2(counts.max())) + 1)
    at_least = (counts[:, :, None] >= thresholds).reshape(len(counts), -1)
    assigned = IterativeStratification(
        labels=at_least[:, at_least.any(axis=0)],  # bool: the library uses rows as masks
        r=wanted / wanted.sum(),
        # What the library takes; MT19937 takes seeds of any size.
        random_state=np.random.RandomState(np.random.MT19937(seed)),
    )
    return _fit_records(assigned.astype(np.int8), sizes, wanted, seed)


def _fit_records(assigned: np.ndarray, sizes: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Move random groups between train and valid or test until those have the wanted records, or no group fits."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    for split in (TEST, VALID):
        missing = int(wanted[split] - sizes[assigned == split].sum())
        source, target = (TRAIN, split) if missing > 0 else (split, TRAIN)
        for group in order[(assigned == source)[order]].tolist():
            if missing == 0:
                break
            if sizes[group] <= abs(missing):
                assigned[group] = target
                missing -= np.sign(missing) * sizes[group]
    return assigned

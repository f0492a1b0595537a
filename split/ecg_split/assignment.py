"""Assigning groups of records (patients, or single studies) to train, valid and test."""

import numpy as np

from ecg_split.labels import count_per_group

TRAIN, VALID, TEST = range(3)  # positions in ecg_finetune.tables.SPLITS
UNASSIGNED = -1
# Balancing labels: among how many random groups each move is looked for, and after how many vain looks it is done.
CANDIDATES, VAIN = 1000, 10


def numbered(ids: np.ndarray) -> np.ndarray:
    """Return each id's rank among the different ids: int (records,), 0 to their number - 1."""
    return np.unique(ids, return_inverse=True)[1]


def make_split(
    group: np.ndarray,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    labels: np.ndarray | None = None,
    kept: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Assign every record to a split, all records of a group to the same.

    Parameters
    ----------
    group : ndarray of int (records,)
        Each record's patient or study: 0 to the number of groups - 1, in the order of their ids, so that the split does
        not depend on the order of the records.
    valid_fraction, test_fraction : float
        Shares of the records.
    seed : int
        Seed of everything random.
    labels : ndarray of bool (records, columns), optional
        What to balance, see `labels.columns_to_balance`. None: nothing.
    kept : tuple, optional
        An earlier split to extend: rows of its records (int), and the position in `SPLITS` of each one's split. A
        group is in one split there.

    Returns
    -------
    row : ndarray of int (records,)
        The records in the order in which they are written: those kept, then the others, in the order given.
    split : ndarray of int8 (records,)
        The position in `SPLITS` of the split of each of these.
    new_groups : int
        The number of groups that had no split before.
    """
    kept_rows, kept_split = kept if kept is not None else (np.array([], dtype=int), np.array([], dtype=np.int8))
    sizes = np.bincount(group)
    split_of_group = np.full(len(sizes), UNASSIGNED, dtype=np.int8)
    split_of_group[group[kept_rows]] = kept_split
    old, new = split_of_group != UNASSIGNED, np.flatnonzero(split_of_group == UNASSIGNED)
    already = np.bincount(split_of_group[old], weights=sizes[old], minlength=3).astype(np.int64)
    wanted = wanted_records(len(group), valid_fraction, test_fraction, already)
    if len(new) and labels is not None:
        split_of_group[new] = assign_stratified(
            sizes[new], count_per_group(group, len(sizes), labels)[new], wanted, seed
        )
    elif len(new):
        split_of_group[new] = assign_at_random(sizes[new], wanted, seed)
    added = np.ones(len(group), dtype=bool)
    added[kept_rows] = False
    row = np.concatenate([kept_rows, np.flatnonzero(added)])
    return row, split_of_group[group[row]], len(new)


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
    """Assign groups at random, then move the few that make every label equally frequent in train, valid and test.

    What is balanced: the records and the groups with each label, all records and groups, and the records from each
    tenth of the ids, as ids are often given in the order of time or place. Almost every group stays where chance has
    put it, so that two seeds share no more groups than two splits at random do.

    Parameters
    ----------
    sizes, wanted, seed
        As in `assign_at_random`; groups in the order of their ids.
    label_counts : ndarray of int (groups, columns)
        How many records of the group have each label, or know it.

    Returns
    -------
    ndarray of int8 (groups,)
        0 train, 1 valid, 2 test.
    """
    index = np.arange(len(sizes))
    of_tenth = np.zeros((len(sizes), 10), dtype=np.int32)
    of_tenth[index, index * 10 // len(sizes)] = sizes
    counts = np.column_stack([sizes, np.ones_like(sizes), of_tenth, label_counts, label_counts > 0]).astype(np.int32)
    assigned = assign_at_random(sizes, wanted, seed)
    _balance(assigned, counts, wanted / wanted.sum(), seed)
    _fit_records(assigned, sizes, wanted, seed)
    return assigned


def _balance(assigned: np.ndarray, counts: np.ndarray, share: np.ndarray, seed: int) -> None:
    """Move groups, in place, until each split has nearly its `share` of the sum of every column of `counts`.

    Each step makes the best of the moves of some random groups: the one after which the squared differences from the
    shares, each relative to its column's sum, add up to least.
    """
    rng = np.random.default_rng(seed)
    total = counts.sum(axis=0, dtype=np.int64)
    # In whole numbers, so that every machine finds the same moves; sums of squares over the columns stay below 2**63.
    weight = 2 ** min(26, (61 - len(total).bit_length()) // 2) // np.maximum(total, 1)
    have = np.stack([counts[assigned == split].sum(axis=0, dtype=np.int64) for split in range(3)])
    excess = weight * have - np.rint(np.outer(share, weight * total)).astype(np.int64)
    vain = 0
    while vain < VAIN:
        groups = rng.integers(len(assigned), size=min(len(assigned), CANDIDATES))
        amount, row, now = counts[groups] * weight, np.arange(len(groups)), assigned[groups]
        gradient = amount @ excess.T
        change = gradient - gradient[row, now][:, None] + (amount**2).sum(axis=1)[:, None]  # half the change of the sum
        change[row, now] = 0
        change[:, share == 0] = 0  # nothing may come to a split that is to stay empty
        best, to = np.unravel_index(change.argmin(), change.shape)
        if change[best, to] == 0:
            vain += 1
            continue
        vain = 0
        excess[now[best]] -= amount[best]
        excess[to] += amount[best]
        assigned[groups[best]] = to


def _fit_records(assigned: np.ndarray, sizes: np.ndarray, wanted: np.ndarray, seed: int) -> None:
    """Move random groups, in place, between train and valid or test until those have the wanted records."""
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

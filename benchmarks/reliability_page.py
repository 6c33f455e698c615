"""Writes the parts of docs/reliability.md from the cases that the programs have kept.

Text and tables are here, and not in the programs that measure, so that a change of a
word does not make their results out of date.
"""

import collections

import kept
from report import table, write_part

KILLS = """\
# Resuming killed runs

A run of 8 epochs of 12 steps is interrupted repeatedly by SIGKILL or SIGTERM, and
resumed by the same call. It has `WeightAveraging`, `SnapshotEnsemble`,
`ReduceOnPlateau`, `EarlyStopping`, `ModelCheckpoint` and batch normalization. In the
column *callbacks*, *restarts* schedules the rate and the momentum. *combined* is 1cycle
in mixed precision, with steps that the loss scale skips and gradients accumulated over
5 batches (5 does not divide 12). Half of the signals come at random times, and half in
the middle of random file operations. In the end, its weights, averages, statistics,
optimizer, plateau state and snapshots (files and manifest) are compared bit for bit
with those of an uninterrupted run. With `ResumableTraining`, the history of all epochs
is compared too, with dropout and shuffled data. If a run differs, none of its kills
counts as survived."""
MODES = {
    "epoch": "`ResumableTraining`",
    "steps": "`ResumableTraining(every=5)`",
    "backup": "Keras's `BackupAndRestore`",
}
FAULTS = """\
# Faults of files

A run of 3 epochs that saves after each epoch is repeated once for every file
operation that it makes (opening to write, write, fsync, rename, unlink, mkdir) and
every kind of fault:

- *killed*: the process is killed before the operation;
- *torn*: the process is killed in the middle of a write, or, if the operation is not a
  write, after it;
- *data lost*: the power fails, and unsynced data is lost, but renames are kept;
- *names lost*: the power fails, and unsynced renames are lost, but later
  removals are kept;
- *EIO*, *ENOSPC*: the operation fails, and the run continues if it can.

A run survives a fault if the same call then resumes from the last epoch that was saved
completely, and ends with the weights of a run without faults, bit for bit. If a
callback cannot resume a run, its saved files must load, and must be from that epoch or
a later one. The operations of HDF5 and Orbax are counted like those of Python."""
LINES = """\
# Interrupts at every line

`sys.settrace` raises `KeyboardInterrupt` before a line of the package: for each line
that a call executes, before its first and its last execution, each in a separate call.
A call survives if afterwards, when Python has collected what it left, the model holds
the raw weights of the last finished step, bit for bit (or, if it was interrupted at its
very end, what it leaves otherwise; or, where the call does not train, all variables and
random numbers as before), the optimizer has its own learning rate, a plain `fit` trains
as it does without this package, nothing is left in `vars` of the model and its
optimizers, and the previous handler of Ctrl-C is back. A first call that does not train
may keep the random numbers that Keras draws to build the model, but the next `fit` must
shuffle and train as it does without the call. If a call does not survive, a real Ctrl-C
is tried at this line, which may wait for the end of a section; the call survives if
this leaves nothing behind, and the line is listed below the table.

The points are interrupted in random order, so the part of a case that was run is a
random sample of it.

`fit` with all callbacks has `HyperparameterScheduler` and its multipliers,
`VariableScheduler`, `HyperparameterLogger`, `GradientNormRecorder`, `ReduceOnPlateau`,
`SnapshotEnsemble`, `PosthocAveraging`, `WeightAveraging` with recalibration,
`ResumableTraining` and validation. `fit` to the average has `OneCycleScheduler` and
averaged statistics. `fit` with `ScheduleFree` has `AveragedEvaluation` and
`BackupAndRestore`."""
# What the text describes, even if it has not been measured yet.
DESCRIBED = (
    "`fit` with all callbacks",
    "`fit` to the average",
    "`fit` with `ScheduleFree`",
)
NOT_HELD = """\
Three limits: outside of the main thread no signal is deferred, but none arrives there
either. An exception that is raised by other means within PyTorch's update of the
weights leaves some of them updated, as in Keras itself. A second Ctrl-C is not
deferred."""
FIXED = {
    "callbacks/snapshot_ensemble.py:319 (time 1)": "fixed in `47ca36d`, after which "
    "`tests/test_interrupts.py` interrupts each line there"
}
"""What was done since about points at which something was left."""
ENDURANCE = """\
# Thousands of fits

One process calls the `fit` of one model thousands of times, for 2 epochs of 4 steps,
with new callbacks each time. What a fit adds is the slope of a line through the second
half. What also grows without callbacks does not come from this package."""


def publish(options, render, lines):
    """Prints a part of the page, and writes it where the options say."""
    if not lines:
        print(f"{options.work} has no finished case.")
        return
    part = render(lines)
    print(part)
    if options.output:
        write_part(options.output, part)


def written(program, lines):
    """Says what measured the lines of a part, and with which versions."""
    found = {}
    for line in lines:
        names = line["origin"]
        backend = line["case"]["backend"]
        versions = {
            "Keras": names["packages"]["keras"],
            backend: names["packages"].get(backend, "of unknown version"),
            "Python": names["python"],
            "on": names["system"],
        }
        for name, version in versions.items():
            found.setdefault(name, {})[version] = None
    system = found.pop("on")
    texts = [f"{name} {' and '.join(found[name])}" for name in sorted(found)]
    return (
        f"Measured by `benchmarks/{program}.py` with {', '.join(texts)} on "
        f"{' and '.join(system)}. *commit* is that of the package. Cases that are not "
        "in the table were not run."
    )


def commits(lines):
    """The cell of a row that says which state of the package was measured."""
    return ", ".join(sorted({f"`{line['origin']['commit']}`" for line in lines}))


def ordered(rows, known):
    """Rows in the order of names, then of backends."""
    backends = ("tensorflow", "jax", "torch")
    return sorted(
        rows, key=lambda row: (list(known).index(row[0]), backends.index(row[-1]))
    )


def reasons(title, found):
    """A list of what went wrong, and how often."""
    lines = [
        f"- {name}, {count} x: {text}"
        for name, texts in found.items()
        for text, count in collections.Counter(texts).most_common(4)
    ]
    return f"{title}\n\n" + "\n".join(lines) if lines else None


def joined(*paragraphs):
    """Paragraphs as a text, without those that are None."""
    return "\n\n".join(text for text in paragraphs if text is not None)


def kills(lines):
    """The part about killed runs."""
    rows, differences = [], {}
    groups = kept.latest(lines, ("mode", "signal", "kind", "backend"))
    for row in ordered(groups, MODES):
        found = [line["found"] for line in groups[row]]
        name = [MODES[row[0]], *row[1:]]
        hits = collections.Counter()
        for one in found:
            hits.update(one["hits"])
        survived, total = (sum(one[n] for one in found) for n in ("survived", "kills"))
        runs = sum(one["runs"] for one in found)
        where = ", ".join(f"{count} {place}" for place, count in hits.most_common())
        cells = [f"{survived} of {total}", str(runs), where, commits(groups[row])]
        rows.append([*name, *cells])
        texts = [text for one in found for text in one["differences"]]
        differences[", ".join(name)] = texts
    head = ["resumed with", "signal", "callbacks", "backend", "survived", "runs"]
    return joined(
        KILLS,
        written("reliability", lines),
        table([*head, "where the signals hit", "commit"], rows),
        reasons("What differed:", differences) or "Nothing differed.",
    )


def faults(lines):
    """The part about faults of file operations."""
    cells, failures, used = {}, {}, {}
    for (kind, fault, backend), (*_, line) in kept.latest(
        lines, ("kind", "fault", "backend")
    ).items():
        found = line["found"]
        used.setdefault((kind, backend), []).append(line)
        of_kind = failures.setdefault(f"{kind}, {backend}", [])
        row = cells.setdefault((kind, backend), {})
        row[fault] = f"{found['survived']} of {found['run']}"
        row["operations"] = f"{found['operations']:,}"
        of_kind += found["failures"]
    names = ("killed", "torn", "data lost", "names lost", "EIO", "ENOSPC", "operations")
    rows = [
        [*row, *(cells[row].get(name, "-") for name in names), commits(used[row])]
        for row in ordered(cells, dict.fromkeys(kind for kind, _ in cells))
    ]
    return joined(
        FAULTS,
        f"{written('faults', lines)} A dash means not run. Where fewer faults than "
        "operations were injected, the operations were chosen at random.",
        table(["survived by", "backend", *names, "commit"], rows),
        reasons("What was not survived, and why:", failures),
    )


def interrupts(lines):
    """The part about interrupts at lines."""
    rows, wrong, waiting = [], [], []
    groups = kept.latest(lines, ("call", "backend"))
    for call, backend in ordered(groups, dict.fromkeys(c for c, _ in groups)):
        group = groups[call, backend]
        found = [line["found"] for line in group]
        reached = sum(one["reached"] for one in found)
        survived = reached - sum(len(one["wrong"]) for one in found)
        ratio = f"{survived:,} of {reached:,}"
        run, points = sum(one["run"] for one in found), found[-1]["all"]
        share = "all" if run >= points else f"{run:,} of {points:,}"
        rows.append([call, backend, ratio, share, commits(group)])
        for one in found:
            for name, listed in (("wrong", wrong), ("only if it waits", waiting)):
                for point, texts in one.get(name, {}).items():
                    if point in FIXED:
                        texts = [*texts, FIXED[point]]
                    listed.append(f"- {call}, {backend}, {point}: {'; '.join(texts)}")
    measured = {call for call, _ in groups}
    missing = ", ".join(call for call in DESCRIBED if call not in measured)
    return joined(
        LINES,
        f"The table does not have these yet: {missing}." if missing else None,
        f"{written('interrupted_lines', lines)} A point that a call does not reach "
        "again is not counted as survived.",
        table(["interrupted", "backend", "survived", "points run", "commit"], rows),
        "What was left:\n\n" + "\n".join(wrong) if wrong else None,
        "What an exception left, but Ctrl-C does not:\n\n" + "\n".join(waiting)
        if waiting
        else None,
        NOT_HELD,
    )


def endurance(lines):
    """The part about thousands of fits."""
    rows = []
    groups = kept.latest(lines, ("callbacks", "backend"))
    for callbacks, backend in ordered(groups, dict.fromkeys(c for c, _ in groups)):
        line = groups[callbacks, backend][-1]
        found = line["found"]
        rows.append(
            [
                *(callbacks, backend, f"{found['fits']:,}"),
                f"{found['first_mb']:.1f} to {found['last_mb']:.1f}",
                *(f"{found['kb_per_fit']:+.2f}", f"{found['objects_per_fit']:+.2f}"),
                commits([line]),
            ]
        )
    head = ["callbacks", "backend", "fits", "memory, MB", "kB per fit"]
    return joined(
        ENDURANCE,
        written("endurance", lines),
        table([*head, "objects per fit", "commit"], rows),
    )


def soak(lines):
    """The part about an hour of training: the last one that was measured."""
    line = lines[-1]
    found = line["found"]
    tenths = enumerate(found["tenths_mb"])
    checkpoint = found["files"]["checkpoints"] / 2 / found["epochs"]
    plateau = found["plateau_bytes"] / found["epochs"]
    rows = [[f"{t * 10} to {t * 10 + 10} %", f"{mb:.1f}"] for t, mb in tenths]
    files = [[name, f"{size / 1e6:.2f}"] for name, size in found["files"].items()]
    names = line["origin"]
    backend = line["case"]["backend"]
    return joined(
        "# An hour of training",
        f"This is one `fit` of {found['epochs']:,} epochs, {found['steps']:,} steps "
        f"and {found['seconds'] / 60:.0f} minutes, with {backend}, Keras "
        f"{names['packages']['keras']} and Python {names['python']}. It was measured "
        f"by `benchmarks/soak.py`, with the package at commit {commits([line])}.",
        f"- Memory grew by {found['growth_mb']:.1f} MB over the last nine tenths of "
        f"the time (a line fitted to {found['measurements']:,} measurements), to a "
        f"total of {found['last_mb']:.0f} MB. This includes the history of `fit`, "
        "which Keras keeps and each checkpoint copies.\n"
        "- The rate of every epoch's last step differed from the schedule's value in "
        f"float64 by a relative error of at most {found['rate_error']:.1e}.\n"
        f"- The logs of two hyperparameters at every step took "
        f"{found['log_bytes_per_step']:.0f} bytes per step. Per epoch, each of the two "
        f"checkpoints took {checkpoint:.0f} bytes, for the history, and the states of "
        f"the plateau rule took {plateau:.0f}. Three snapshots are kept.",
        table(["part of the time", "memory, MB"], rows),
        table(["files at the end", "MB"], files),
    )

"""A first search from Python: the embedded study, its tables, and the router it found.

Run it whole (`python docs/examples/first_search.py`, about four minutes on two cores) or cell by cell in an editor that
knows `# %%`. `--small` shortens every run, to see it go.
"""

# %% What is searched
import sys

import haps_search as haps

SMALL = "--small" in sys.argv
short = {"sweep.trials": 2, "run.steps": 20, "run.validation.every": 10, "sweep.scheduler": {"type": "none"}}
study = haps.load_study("skills", {"sweep.trials": 4, **(short if SMALL else {})})
print(haps.validate(study))


# %% Search it
# Three tiny LMs that ship with the package are hosted on a Ray of this machine. The same call goes on after a kill;
# so does `haps.resume("first")`, also in another process.
def show(event: object) -> None:
    """One line of text per event; `haps_search.cli.display.Terminal()` shows bars and a table instead."""
    if isinstance(event, haps.Said):
        print(event.text)
    elif isinstance(event, haps.Frame) and event.last:
        print(f"{event.done:.0%} of all steps are done")


result = haps.sweep(study, name="first", report=show)

# %% What it found
# Tables are pandas DataFrames; in a notebook the result shows itself.
print(result.trials[["state", "step", "metrics.validation_reward"]])
print(result.comparison)

# %% Use the best trial
run = haps.load_run("first")
answer = run.ask("[y] sort plum=")
print(answer.decision.assignment, repr(answer.text), "frozen:", repr(answer.frozen[-1].text))
print(run.route(["[y] sort plum=", "[x] 12+30="]).frame)
exported = run.export(["[y] sort plum="], "first-adapters")
print(f"{exported.adapters} PEFT adapters in {exported.folder}")

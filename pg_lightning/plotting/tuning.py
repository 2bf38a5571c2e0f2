"""Picture of a search for options."""

from typing import IO, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pg_lightning.plotting.common import COLOURS


def plot_study(study: Any, image: IO[bytes]) -> None:
    """Draw the value of every trial, and how much each option matters for it.

    Args:
        study: of Optuna.
        image: where the PNG is written.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    history, importance = figure.subplots(1, 2)
    numbers, values = [trial.number for trial in complete], [trial.value for trial in complete]
    history.plot(numbers, values, ".", color=COLOURS[0], label="trial")
    history.plot(numbers, np.maximum.accumulate(values), color=COLOURS[1], label="best so far")
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED" and trial.intermediate_values]
    last = [list(trial.intermediate_values.values())[-1] for trial in pruned]
    history.plot([trial.number for trial in pruned], last, "x", color="grey", label="ended early (fewer seeds)")
    history.set(xlabel="trial", ylabel=f"{study.user_attrs['settings']['measure']}, mean over seeds")
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    history.grid(alpha=0.3)
    history.legend(loc="best", fontsize="small")
    shares = dict[str, float]()
    if len(complete) > 3 and np.ptp(values) > 0:
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))
    names = list(shares)[::-1]
    importance.barh(
        [name.replace(".init_args", "") for name in names], [shares[name] for name in names], color=COLOURS[0]
    )
    importance.set(
        xlabel="importance for the best quarter of the trials", title="" if shares else "too few trials to tell"
    )
    if not shares:
        importance.set_axis_off()
    figure.suptitle(f"{study.study_name}: {len(study.trials)} trials")
    figure.savefig(image, dpi=110, format="png")

"""Drawing schedules, with matplotlib imported only when that is asked for."""


def plot_schedules(schedules, num_steps, path=None, log_scale=False):
    raise NotImplementedError

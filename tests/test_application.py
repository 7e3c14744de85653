"""What Serve is told of the deployments."""

import pytest

from pipelines.serve import ServeArgs, application


@pytest.mark.parametrize("apart", [{}, {"fronts": 1}])
def test_requests_are_counted_only_where_their_number_decides_how_many_score(apart: dict[str, int]) -> None:
    def scorers(least: int, most: int) -> object:
        found = application(ServeArgs(min_replicas=least, max_replicas=most, **apart))
        if apart:
            found = found._bound_deployment.init_args[0]  # what the front asks
        config = found._bound_deployment._deployment_config
        scaling = config.autoscaling_config
        return config.num_replicas if scaling is None else (scaling.min_replicas, scaling.max_replicas)

    assert scorers(2, 2) == 2
    assert scorers(1, 3) == (1, 3)

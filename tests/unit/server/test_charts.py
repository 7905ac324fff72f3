"""Curves as lines of a picture."""

from voxelworks.protocol.messages import Curve
from voxelworks.server.charts import HEIGHT, WIDTH, charts_of


def test_losses_share_their_axes_and_what_is_measured_has_its_own():
    curves = [
        Curve(name="Loss in training", points=((0, 2.0), (10, 1.0))),
        Curve(name="Loss in validation", points=((0, 3.0), (10, 1.5))),
        Curve(name="IoU", points=((0, 0.25), (5, 0.5), (10, 0.75))),
    ]
    losses, score = charts_of(curves)
    assert (losses.low, losses.high, losses.first, losses.last) == (1.0, 3.0, 0, 10)
    assert [line.name for line in losses.lines] == ["Loss in training", "Loss in validation"]
    assert losses.lines[0].points == f"0.0,{HEIGHT / 2:.1f} {WIDTH}.0,{HEIGHT}.0"
    assert losses.lines[1].points.startswith("0.0,0.0 ")
    assert score.lines[0].points == f"0.0,{HEIGHT}.0 {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH}.0,0.0"
    assert losses.words == "Loss in training 1, Loss in validation 1.5 at step 10"


def test_curves_that_do_not_change_lie_in_the_picture_and_single_points_are_left_out():
    (chart,) = charts_of(
        [Curve(name="IoU", points=((0, 0.5), (1, 0.5))), Curve(name="F1", points=((0, 1.0),))]
    )
    assert chart.lines[0].points == f"0.0,{HEIGHT}.0 {WIDTH}.0,{HEIGHT}.0"
    assert charts_of([]) == ()

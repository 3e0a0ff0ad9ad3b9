"""The shortest step onto a hyperplane within the box, against general solvers."""

import numpy as np
import pytest
import torch
from scipy import optimize

from kafnets.attacks import L1, L2, Linf, Norm
from kafnets.attacks.hyperplane_projection import step_to_plane

NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def problems(n=40, size=5, seed=0):
    """Planes that can be reached, some with black and white pixels, some with zero weights, of both signs."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, size, generator=rng, dtype=torch.float64)
    x[: n // 4] = x[: n // 4].round()
    w = torch.randn(n, size, generator=rng, dtype=torch.float64)
    w[n // 2 : 3 * n // 4, 0] = 0
    goal = torch.rand(n, size, generator=rng, dtype=torch.float64)  # a point of [0, 1] on the plane
    return x, w, (w * (goal - x)).sum(1)


def linf_by_linear_program(x, w, c):
    """min t over (d, t) with -t <= d_i <= t."""
    size = len(x)
    eye = np.eye(size)
    rows = np.block([[eye, -np.ones((size, 1))], [-eye, -np.ones((size, 1))]])
    found = optimize.linprog(
        c=[0] * size + [1],
        A_ub=rows,
        b_ub=np.zeros(2 * size),
        A_eq=[[*w, 0]],
        b_eq=[c],
        bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
    )
    assert found.success
    return found.fun


def l2_by_quadratic_program(x, w, c):
    found = optimize.minimize(
        lambda d: d @ d,
        np.zeros_like(x),
        jac=lambda d: 2 * d,
        bounds=list(zip(-x, 1 - x, strict=True)),
        constraints={"type": "eq", "fun": lambda d: w @ d - c, "jac": lambda d: w},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    return found.fun**0.5


def l1_by_linear_program(x, w, c):
    """min sum(p + q) over d = p - q with p, q >= 0."""
    found = optimize.linprog(
        c=np.ones(2 * len(x)), A_eq=[[*w, *-w]], b_eq=[c], bounds=[*((0, v) for v in 1 - x), *((0, v) for v in x)]
    )
    assert found.success
    return found.fun


SOLVERS = {"linf": linf_by_linear_program, "l2": l2_by_quadratic_program, "l1": l1_by_linear_program}


@pytest.mark.parametrize("name", NORMS)
def test_as_short_as_a_general_solver_finds(name):
    x, w, c = problems()
    d = step_to_plane(NORMS[name], x, w, c)
    expected = [SOLVERS[name](*(t.numpy() for t in (x[i], w[i])), c[i].item()) for i in range(len(x))]
    torch.testing.assert_close(NORMS[name].size(d), torch.tensor(expected, dtype=x.dtype), rtol=1e-6, atol=1e-7)


@every_norm
@pytest.mark.parametrize("size", [1, 2, 7, 3072])
def test_on_the_plane_and_in_the_box(norm, size):
    x, w, c = problems(size=size, seed=size)
    d = step_to_plane(norm, x, w, c)
    torch.testing.assert_close((w * d).sum(1), torch.where(w.abs().sum(1) > 0, c, 0), rtol=1e-10, atol=1e-10)
    assert (x + d).min() >= -1e-12
    assert (x + d).max() <= 1 + 1e-12


@every_norm
def test_without_the_box_the_known_formulas(norm):
    _, w, _ = problems()
    x, c = torch.full_like(w, 0.5), 0.08 * w.abs().sum(1)
    expected = {
        Linf: (c / w.abs().sum(1)).unsqueeze(1) * w.sign(),
        L2: (c / w.square().sum(1)).unsqueeze(1) * w,
        L1: torch.where(w.abs() == w.abs().amax(1, keepdim=True), c.unsqueeze(1) / w, 0),
    }
    torch.testing.assert_close(step_to_plane(norm, x, w, c), expected[type(norm)])
    torch.testing.assert_close(step_to_plane(norm, x, w, -c), -expected[type(norm)])


@every_norm
def test_a_plane_out_of_reach_gives_the_nearest_corner(norm):
    x, w, _ = problems()
    d = step_to_plane(norm, x, w, torch.full((len(x),), 1e3, dtype=x.dtype))
    expected = torch.where(w > 0, 1 - x, torch.where(w < 0, -x, 0))
    torch.testing.assert_close(d, expected)


@every_norm
def test_zero_weights_or_no_distance_give_no_step(norm):
    x = torch.rand(2, 3, 4, 4)
    assert not step_to_plane(norm, x, torch.zeros_like(x), torch.ones(2)).any()
    assert not step_to_plane(norm, x, torch.randn_like(x), torch.zeros(2)).any()


@every_norm
def test_weights_of_any_scale(norm):
    x, w, c = problems()
    expected = step_to_plane(norm, x, w, c)
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(step_to_plane(norm, x, scale * w, scale * c), expected)
    tiny = w.clone()
    tiny[:, 0] = 1e-200
    assert step_to_plane(norm, x, tiny, c).isfinite().all()


@every_norm
def test_shape_and_dtype_are_those_of_the_images(norm):
    x = torch.rand(3, 3, 8, 8)
    w = torch.randn_like(x)
    d = step_to_plane(norm, x, w, torch.tensor([1.0, -2.0, 0.5]))
    assert (d.shape, d.dtype) == (x.shape, torch.float32)
    torch.testing.assert_close((w * d).flatten(1).sum(1), torch.tensor([1.0, -2.0, 0.5]), rtol=1e-4, atol=1e-4)


def test_in_l1_pixels_move_in_descending_order_of_weight_and_rounding_moves_no_other():
    x, w = torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.tensor([[1e-9, -3.0, 2.0, 1.0]])
    for c, expected in ((1.5, [0, -0.5, 0, 0]), (2.0, [0, -0.5, 0.25, 0]), (-3.0, [0, 0.5, -0.5, -0.5])):
        assert step_to_plane(L1(), x, w, torch.tensor([c])).tolist() == [expected]
    tenths = torch.full((1, 11), 0.1, dtype=torch.float64)  # whose sum is not exactly 1
    weight = torch.cat([-torch.ones(10, dtype=torch.float64), torch.tensor([-1e-30], dtype=torch.float64)])
    assert step_to_plane(L1(), tenths, weight.unsqueeze(0), torch.tensor([1.0]))[0, -1] == 0


def test_an_unknown_norm_is_refused():
    class L7(Norm):
        check_eps = random_start = direction = project = size = None

    with pytest.raises(TypeError, match=r"no way to a plane is known in L7\(\); pass Linf\(\), L2\(\) or L1\(\)"):
        step_to_plane(L7(), torch.rand(1, 2), torch.rand(1, 2), torch.ones(1))

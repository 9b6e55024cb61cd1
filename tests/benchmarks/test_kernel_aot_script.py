import kernel_aot
import pytest
from kernel_cases import Case

from agehpc_kernels.triton_launch import Launch


def launch_of(kernel: str, case: Case) -> Launch:
    return next(one for one in kernel_aot.launches(case) if one.kernel.__name__ == kernel)


@pytest.mark.parametrize(
    ("arch", "dtype", "layout"),
    [
        ("90", "bfloat16", "contiguous"),
        ("90", "bfloat16", "channels_last"),
        ("80", "float32", "contiguous"),
        pytest.param("80", "bfloat16", "channels_last", marks=pytest.mark.slow),
    ],
)
def test_large_images_neither_spill_nor_are_read_in_small_pieces(arch, dtype, layout, capsys):
    """256 x 256, where a block that takes the whole space spills."""
    words = ["--shape", "16x64x256x256", "--arch", arch, "--dtype", dtype, "--layout", layout]
    words += ["--order", "norm_first", "--save", "input"]
    code = kernel_aot.main(words)
    told = capsys.readouterr()
    assert code == 0, told.err
    kernels = {line.split()[1] for line in told.out.splitlines()[1:]}
    assert {"moments", "combine", "apply", "sums", "add_up", "apply_backward"} == kernels


CHANNELS_OF_A_THREAD = Case((64, 512, 4, 4), "float16", True, "activation_first")
"""Eight channels, of which each thread finishes the statistics."""


@pytest.mark.parametrize(
    ("case", "arch"),
    [
        (Case((16, 512, 32, 32), "bfloat16"), 80),
        pytest.param(Case((16, 512, 32, 32), "bfloat16"), 90, marks=pytest.mark.slow),
        pytest.param(CHANNELS_OF_A_THREAD, 80, marks=pytest.mark.slow),
        (CHANNELS_OF_A_THREAD, 90),
    ],
)
def test_what_is_held_on_chip_does_not_spill(case, arch):
    held = [one for one in kernel_aot.launches(case) if one.kernel.__name__.endswith("_once")]
    assert held
    for launch in held:
        assert kernel_aot.wrong(launch, kernel_aot.examine(launch, arch)) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_whole_table(dtype, capsys):
    code = kernel_aot.main(["--dtype", dtype])
    assert code == 0, capsys.readouterr().err


def test_a_tile_that_is_too_large_is_found_to_spill():
    launch = launch_of("backward_once", Case((16, 8, 32, 32), "bfloat16"))
    large = launch._replace(constants=launch.constants | {"ROWS": 64}, warps=8)
    examined = kernel_aot.examine(large, 80)
    assert examined["stack"] > 0
    assert examined["spills"] > 0
    assert "bytes of stack" in kernel_aot.wrong(large, examined)[0]


def test_accesses_that_are_not_vectors_are_found():
    """The kernel for rows of unknown length, held to what rows of 1024 values allow."""
    launch = launch_of("apply", Case((64, 64, 32, 32), "bfloat16"))
    n, c, s = launch.arguments[-3:]
    odd = launch._replace(arguments=(*launch.arguments[:-3], n, c, s - 1))
    accesses = kernel_aot.examine(odd, 80)["accesses"]
    assert kernel_aot.narrow(odd, accesses) == []
    loads, few_loads, few_stores = kernel_aot.narrow(launch, accesses)
    assert loads.startswith("16 LDG.E.")
    assert few_loads == "0 LDG of 128 bits, not 2"
    assert few_stores == "0 STG of 128 bits, not 2"


@pytest.mark.parametrize(
    ("access", "width"),
    [("LDG.E", 4), ("STG.E.U16", 2), ("LDG.E.EF.128", 16), ("LDG.E.64.CONSTANT", 8)],
)
def test_width(access, width):
    assert kernel_aot.width(access) == width


def test_what_compiles_alike_is_compiled_once():
    one, other = Case((16, 64, 64, 64)), Case((32, 64, 64, 64))
    alike = len(kernel_aot.different([one, one]))
    assert alike == len(kernel_aot.different([one]))
    assert len(kernel_aot.different([one, other])) < 2 * alike
    # 61 channels: a number that Triton does not know to be a multiple of 16.
    changes = {"dtype": "bfloat16"}, {"channels_last": True}, {"slope": 0.5}
    for changed in ({"shape": (16, 61, 64, 64)}, *changes):
        both = kernel_aot.different([one, Case(**{"shape": one.shape} | changed)])
        assert len(both) > alike
    # The finishing kernels know neither layout nor order; every other one does.
    orders = kernel_aot.different([one, Case(one.shape, order="activation_first")])
    assert len(orders) < 2 * alike


def test_every_function_of_the_seam_is_compiled():
    found = {launch.kernel.__name__ for launch in kernel_aot.launches(Case((8, 8, 32, 32)))}
    found |= {launch.kernel.__name__ for launch in kernel_aot.launches(Case((16, 8, 64, 64)))}
    two_pass = {"moments", "combine", "apply", "sums", "add_up", "apply_backward"}
    assert found == two_pass | {"forward_once", "backward_once"}

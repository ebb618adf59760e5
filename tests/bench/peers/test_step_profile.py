"""How step_profile.py reads perf's report."""

import pytest
import step_profile
from kvcrush_eval import EvalError

REPORT = """
# Overhead  Shared Object         Symbol
    40.00%  kvcrush-server        [.] (anonymous namespace)::amx_panels
    20.00%  kvcrush-server        [.] (anonymous namespace)::attention_bf16
    10.00%  libgomp.so.1.0.0      [.] 0x000000000001e02a
     6.00%  libtorch_cpu.so       [.] at::_ops::narrow::call
     4.00%  libc10.so             [.] c10::TensorImpl::~TensorImpl
    10.00%  [kernel.kallsyms]     [k] clear_page_erms
    10.00%  libc.so.6             [.] malloc
"""


def test_shares_of_a_report():
    found = step_profile.shares(REPORT)
    assert found["projections"] == pytest.approx(0.4)
    assert found["attention"] == pytest.approx(0.2)
    assert found["OpenMP: waiting and handing out"] == pytest.approx(0.1)
    assert found["libtorch"] == pytest.approx(0.1)
    assert found["operating system"] == pytest.approx(0.1)
    assert found["the rest of the server, libc"] == pytest.approx(0.1)
    assert sum(found.values()) == pytest.approx(1.0)


def test_an_empty_report_is_an_error():
    with pytest.raises(EvalError, match="perf saw nothing"):
        step_profile.shares("# Total Lost Samples: 0\n")

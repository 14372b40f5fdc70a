"""jupyter_kernel_test for ipykernel; run by test_suites.py under our provisioner."""

from __future__ import annotations

import jupyter_kernel_test


class IPyKernelTests(jupyter_kernel_test.KernelTests):
    """What ipykernel can do, seen through the relay."""

    kernel_name = "python3"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = [{"code": "6*7", "result": "42"}]
    code_display_data = [
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))",
            "mime": "text/html",
        },
    ]
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
    code_history_pattern = "1?2*"
    # "range" and "search" fail with ipykernel under jupyter_client's own provisioner as well.
    supported_history_operations = ("tail",)
    completion_samples = [{"text": "zi", "matches": {"zip"}}]
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n"]
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]
    invalid_code_samples = ["import = 7q"]

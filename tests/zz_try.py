from test_models import *  # noqa
import pathlib, pytest, conftest
@pytest.fixture(scope="session")
def walkthrough():
    p=conftest.Project.__new__(conftest.Project); p.folder=pathlib.Path('/tmp/hi-trained'); return p

import json

from hardware_profiles.host import host_description


def test_host_is_described_in_json() -> None:
    host = host_description()
    assert json.loads(json.dumps(host)) == host
    assert set(host) == {"cpu", "cores", "os"} and isinstance(host["cores"], int) and host["cores"] >= 1
    assert host["cpu"] and host["os"]

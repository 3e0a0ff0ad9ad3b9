"""A study runs all that is left, survives failures and signals, and never runs a member twice at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lightning_modules.studies.member_record import read_member
from lightning_modules.studies.runner import Runner, last_line


def run(jobs, *, slots=1, changed=None):
    Path("runs/mine").mkdir(parents=True, exist_ok=True)
    environments = [{"OMP_NUM_THREADS": str(10 + slot)} for slot in range(slots)]
    runner = Runner(jobs, environments, changed, Path("runs/mine/study.log"))
    try:
        runner.run()
    except SystemExit as stop:
        return stop.code, Path("runs/mine/study.log").read_text()
    return 0, Path("runs/mine/study.log").read_text()


def test_every_member_runs_once_and_leaves_its_record(fake_cli, make_job, calls):
    jobs = [make_job("a"), make_job("b")]
    status, log = run(jobs)
    assert status == 0 and [flags["run.name"] for flags, _ in calls()] == ["a", "b"]
    record = read_member("results/mine/b.json")
    assert record["axes"] == {"net": "b"} and record["command"] == ["fit", "--config", "kafvgg"]
    assert record["config_sha256"] == jobs[1].identity["config_sha256"]
    assert "a is done: clean 60.0 [56.9, 63.0] %, robust 31.0" in log and "1 of 2 done, about 11.9 min left" in log
    assert run(jobs)[0] == 0 and len(calls()) == 2


def test_slots_are_used_at_once_and_each_has_its_environment(fake_cli, make_job, calls):
    assert run([make_job(name) for name in "abcd"], slots=2)[0] == 0
    assert sorted({threads for _, threads in calls()}) == ["10", "11"]


def test_a_failed_member_is_listed_and_runs_again_at_the_next_call(fake_cli, make_job, calls):
    jobs = [make_job("fails"), make_job("b")]
    status, log = run(jobs)
    assert status == 1 and read_member("results/mine/b.json")
    assert "1 of 2 members are done, 1 have failed" in log and "  fails: error: the loss is nan\n" in log
    assert jobs[0].status()["status"] == "failed" and jobs[0].status()["last_line"] == "error: the loss is nan"
    Path("mended").touch()
    assert run(jobs)[0] == 0 and [flags["run.name"] for flags, _ in calls()] == ["fails", "b", "fails"]


def wait_for(path):
    deadline = time.monotonic() + 30
    while not Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_stops_members_after_their_checkpoint_and_the_next_call_goes_on(fake_cli, make_job, calls):
    jobs = [make_job("hangs"), make_job("b")]

    def stop():
        wait_for("hanging")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    status, log = run(jobs)
    thread.join()
    assert status == 128 + signal.SIGTERM and len(calls()) == 1
    assert "hangs was stopped after" in log and jobs[0].status()["status"] == "stopped"
    assert run(jobs)[0] == 0
    assert calls()[1][0]["ckpt_path"] == "runs/mine/hangs/version_0/checkpoints/last.ckpt"
    assert jobs[0].status()["attempts"] == 2


def test_a_member_that_another_process_runs_is_left_to_it_and_waited_for(fake_cli, make_job, calls):
    jobs = [make_job("a"), make_job("b")]
    held = jobs[0].lock()
    keeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held])
    os.close(held)  # what remains is that of the child, as after a kill of the study that has started it
    thread = threading.Thread(target=lambda: (wait_for("results/mine/b.json"), keeper.communicate(b"\n")))
    thread.start()
    status, log = run(jobs)
    thread.join()
    assert status == 0 and [flags["run.name"] for flags, _ in calls()] == ["b", "a"]
    assert log.count(f"a is run by process {os.getpid()} on ") == 1


def test_a_run_that_ended_unnoticed_is_collected(fake_cli, make_job, calls):
    job = make_job("a")
    job.begin(job.plan())
    subprocess.run([sys.executable, "cli.py", *job.arguments()], check=True)
    assert run([job])[0] == 0 and len(calls()) == 1 and read_member("results/mine/a.json")


def test_a_run_without_results_has_failed(fake_cli, make_job):
    Path("cli.py").write_text("")
    status, log = run([make_job("a")])
    assert status == 1 and "a has failed: it ended without results.json in runs/mine/a" in log


def test_the_last_line_is_what_a_terminal_would_show(tmp_path):
    path = tmp_path / "output.txt"
    path.write_bytes(b"one\n10 %\r20 %\r\n\n")
    assert last_line(path) == "20 %"
    path.write_text("")
    assert last_line(path) == ""


def test_the_status_of_a_member_is_whole_json(fake_cli, make_job):
    run([make_job("a")])
    status = json.loads(Path("runs/mine/_status/a.json").read_text())
    assert status["status"] == "done" and status["exit"] == 0 and status["seconds"] >= 0

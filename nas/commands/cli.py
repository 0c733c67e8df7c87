"""The command line: ``nas STAGE key=value ...`` on Hydra, ``nas run`` for all stages, ``nas devices``,
``nas spaces``, ``nas table``, ``nas front``, ``nas quality`` and ``nas import-ofa``."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.core.terminal import CleanFormatter, clean
from search_spaces.base.errors import InvalidValueError, NasError
from search_spaces.base.names import closest

if TYPE_CHECKING:
    from nas.run.run_folder import Run

GROUPS, KEYS, SWEEPS = "Groups (group=option):", "Keys (key=value), as configured now:", "`-m key=a,b` runs"
"""Words of `conf/config.yaml` between which its template of the help has the groups and the settings."""

STAGES = {
    "run": "all stages below, skipping those whose settings and inputs have not changed",
    "profile": "measure the layers of the space on every device -> latency tables",
    "train": "train the supernet",
    "label": "evaluate subnets through the supernet -> accuracy pairs",
    "fit": "fit accuracy and latency predictors, judge them on unseen networks",
    "search": "search the Pareto front of every device",
    "export": "write the chosen networks as ONNX with trained weights",
    "finetune": "train the exported networks further, each alone, from the weights that they inherit",
    "train-alone": "train the exported networks from nothing, to compare with",
    "verify": "measure the exported networks on their devices and on the test images",
    "report": "write report.html and its figures",
}
HELP = """nas - hardware-aware neural architecture search

  nas run recipe=digits        the whole chain on the embedded digits; 3 to 4 minutes, then open
                               runs/digits/report/report.html
  nas run --plan key=value ... everything checked, and what would be done; nothing is run
  nas STAGE key=value ...      one stage; the settings are the same for all
  nas finetune, nas train-alone
                               the exported networks trained alone; `nas run` does so where it was once asked for, and
                               then brings verification and report up to date
  nas devices                  the known devices, and whether each can be used from here
  nas devices new NAME         a YAML for a device of your own, all settings explained
  nas devices check NAME       reach a device, measure three layers twice, and say what is wrong
  nas spaces                   the known search spaces, and the published networks in them
  nas spaces NAME              what can be chosen in a space, MACs and parameters of its published networks
  nas spaces export NAME NETWORK FOLDER
                               a published network as ONNX
  nas table import|merge|show  other people's latency tables, tables merged, a table looked at
  nas front show|choose|merge|export|compare
                               fronts looked at, chosen from, merged, exported, compared over seeds
  nas quality predictor=FILE.npz truth=FILE
                               how good a saved predictor is on networks that it has not seen
  nas import-ofa CHECKPOINT space=ofa_mobilenet_v3
                               published once-for-all weights -> the supernet that `nas train` would make
  nas STAGE --help             all settings with their values
  nas STAGE --trust NAME ...   let code of your own run that a setting names: a module, or the path of a program

Stages:
{stages}

Settings, for example:
  device=host_ort              a device, a list [host_ort,host_tvm], or the path of a YAML of your own
  limit.latency_ms=0.2         no slower network is offered
  searcher=random seed=1       another search algorithm, another seed
  out=runs/mine                the run folder; the same command again continues there
  -m seed=0,1,2                one run per value

Exit codes: 0 done, 2 a setting or a file is wrong (the message says which), 130 interrupted.
"""


def main() -> None:
    """Entry point of the command ``nas``."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and give its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(stages="\n".join(f"  {name:12}{about}" for name, about in STAGES.items())), end="")
        return 0
    if arguments[0] in ("-v", "--version", "version"):
        from nas import __version__

        print(f"hwnas {__version__}")
        return 0
    return _with_clear_errors(lambda: _dispatch(arguments))


def _dispatch(given: list[str]) -> None:
    from nas.commands import command_line

    word, *arguments = command_line.trusted(given)
    if word == "devices":
        _devices(arguments)
    elif word == "spaces":
        from nas.commands import spaces

        for text in spaces.command(arguments):
            print(clean(text), flush=True)
    elif word == "table":
        from nas.commands import tables

        print(clean(tables.command(arguments)))
    elif word == "front":
        from nas.commands import front

        print(clean(front.command(arguments)))
    elif word == "quality":
        from nas.commands import quality

        print(clean(quality.command(arguments)))
    elif word == "import-ofa":
        _import_ofa(arguments)
    elif word == "run" and "--plan" in arguments:
        _configured(word, [a for a in arguments if a != "--plan"], _plan)
    elif word in STAGES and "--plan" in arguments:
        raise NasError(
            "`--plan` belongs to `nas run`: `nas run --plan` with the same settings says what would be done."
        )
    elif word in STAGES:
        _configured(word, arguments, lambda run: _run_stage(run, word))
    else:
        known = [*STAGES, "devices", "spaces", "table", "front", "quality", "import-ofa"]
        close = closest(word, known)
        hint = f" Did you mean `nas {close}`?" if close else ""
        raise NasError(f"There is no stage {word!r}.{hint} There are {', '.join(known)}; `nas --help` explains them.")


def _with_clear_errors(action: Callable[[], None]) -> int:
    """Run, and turn what a user can mend into one message and exit code 2."""
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    from nas.commands.command_line import in_plain_words
    from search_spaces.base.storage import cannot_use

    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to here
    handler = logging.StreamHandler()
    handler.setFormatter(CleanFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        action()
    except SystemExit as error:  # of Hydra's parser, which has printed what is wrong
        return error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues where this one stopped.", file=sys.stderr)
        return 130
    except NasError as error:
        return _refuse(str(error))
    except yaml.YAMLError as error:
        return _refuse(f"A configuration file is malformed YAML: {error}")
    except MissingMandatoryValue as error:
        return _refuse(f"`{error.full_key}` has no value and needs one: add {error.full_key}=... to the command.")
    except OmegaConfBaseException as error:
        return _refuse(f"A setting is wrong: {in_plain_words(error)}")
    except HydraException as error:
        return _refuse(f"{in_plain_words(error)}\n`nas run --help` lists all settings.")
    except BrokenPipeError:  # whoever read the output, `head` say, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            return _refuse(f"Reading or writing fails: {error.strerror or error}. Is standard output open?")
        return _refuse(cannot_use(error.filename, error))
    except Exception as error:
        error.add_note("This should not happen. Please report these lines, your command and `nas --version`.")
        raise
    return 0


def _refuse(message: str) -> int:
    print(clean(f"nas: {message}"), file=sys.stderr)
    return 2


def _plan(run: Run) -> None:
    from nas.pipeline import running

    print("\n".join(running.plan(run)))


def _run_stage(run: Run, word: str) -> None:
    from nas.pipeline import running

    if word == "run":
        for outcome in running.run_all(run, lambda line: print(line, flush=True)):
            print(outcome, flush=True)
    else:
        print(running.run_stage(run, word), flush=True)
    print(clean(running.summary(run, word)), flush=True)


def _import_ofa(arguments: list[str]) -> None:
    """Import the weights in the file that the first argument names; settings follow."""
    usage = "nas import-ofa CHECKPOINT space=... [out=...]"
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"{usage}   published once-for-all weights -> the supernet of a space\n")
        print("The spaces are those whose names start with ofa_. The later stages use the weights in place of trained")
        print("ones; `nas label --help` lists the settings.")
        return
    given = arguments[0] if arguments else ""
    if not given or given.startswith("-") or ("=" in given and not Path(given).exists()):
        raise NasError(f"`{usage}` takes a checkpoint before all settings, but got {given!r}.")

    from nas.pipeline import stages

    _configured("import-ofa", arguments[1:], lambda run: print(stages.import_weights(run, Path(given))), given)


def _configured(word: str, arguments: list[str], action: Callable[[Run], None], *before: str) -> None:
    """Compose the settings from the arguments and act on a run with them; ``before`` stood before them."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from nas.commands import command_line
    from nas.run import run_folder, settings
    from search_spaces.base.building import check_arguments, check_named

    settings.register()
    command = shlex.join(["nas", word, *before, *arguments])

    failures: list[BaseException] = []
    line = command_line.read(arguments)
    absent = _absent_folders(line.settings)

    @hydra.main(version_base="1.3", config_path="pkg://nas.conf", config_name="config")
    def app(config: DictConfig) -> None:
        try:
            if not failures:  # in a sweep the first failure ends it
                run_configured(config)
        except (Exception, KeyboardInterrupt) as error:  # raised below: Hydra would print a line of its own
            failures.append(error)

    def run_configured(config: DictConfig) -> None:
        runtime = HydraConfig.get().runtime
        folder = Path(runtime.output_dir)
        try:
            command_line.check_numbers(OmegaConf.to_container(config, resolve=True))
            chosen = OmegaConf.to_object(config)
            assert isinstance(chosen, settings.Settings)
            for part in command_line.PARTS:
                check_named(part, getattr(chosen, part))
                if part in added:
                    check_arguments(part, getattr(chosen, part))
            action(run_folder.Run(chosen, folder, command, runtime.choices.get("searcher")))
        finally:
            for made in [folder, *absent]:  # Hydra makes them before anything is known to be right
                with contextlib.suppress(OSError):
                    made.rmdir()  # which keeps all that holds something

    with _composing():
        command_line.check_folder(line)
        line.settings = command_line.completed(line)
        command_line.check_hydra(line)
    added = command_line.arguments_set(line.settings)
    if "--multirun" in line.options:
        line.settings += command_line.of_sweep(line.settings)
    sys.argv = [f"nas {word}", *line.for_hydra()]
    with _composing():
        if "--help" in line.options:
            _explain(app)
        else:
            app()
    if failures:
        raise failures[0]


def _absent_folders(settings: Sequence[str]) -> list[Path]:
    """The run folder and those that it is in, as far as they are not there yet, inner ones first."""
    out = next((value for s in reversed(settings) for name, _, value in [s.partition("=")] if name == "out"), "runs/_")
    return [path for path in (Path(out), *Path(out).parents) if not path.exists()]


@contextlib.contextmanager
def _composing() -> Iterator[None]:
    """Turn what Hydra raises of malformed configurations, besides its own errors, into one of ours."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (ValueError, TypeError, AssertionError, AttributeError, LookupError) as error:
        if isinstance(error, NasError | OmegaConfBaseException):
            raise
        words = str(error).rstrip(".") or type(error).__name__
        raise InvalidValueError(
            f"The configuration cannot be put together: {words}. Look at `defaults` in the files that it names "
            "and at settings of whole groups."
        ) from error


def _explain(app: Callable[[], None]) -> None:
    """Print Hydra's help, with an explanation beside each key."""
    from nas.commands.help import explained, with_spaces

    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):  # its last words
        app()
    before, begin, rest = printed.getvalue().partition(KEYS)
    keys, end, after = rest.partition(SWEEPS)
    head, title, groups = before.partition(GROUPS)
    found = [head + title, "\n\n", with_spaces(groups), "\n", begin, "\n\n", explained(keys.strip()), "\n", end + after]
    print("".join(found), end="")


def _devices(arguments: list[str]) -> None:
    """List device profiles, write a new one, or check one."""
    from nas.commands import devices

    word, words = (arguments[0], arguments[1:]) if arguments else ("", [])
    if any(word in ("-h", "--help") for word in arguments):
        print(devices.HELP, end="")
    elif word == "new":
        name = next((w for w in words if "=" not in w), "")
        settings = dict(w.split("=", 1) for w in words if "=" in w)
        if len(words) - len(settings) != 1 or set(settings) - {"backend"}:
            raise NasError(f"`nas devices new` takes a name and `backend=...`, but got {shlex.join(words)!r}.")
        path = devices.new_device(name, **settings)
        print(f"Wrote {path}. Edit it, then")
        print(f"  nas devices check {path}   reaches the device and measures three layers")
        print(f"  nas profile device={path}  measures the layers of a space (`space=...`)")
    elif word == "check":
        if len(words) != 1:
            raise NasError(
                f"`nas devices check` takes one device, by name or YAML file, but got {shlex.join(words)!r}."
            )
        for line in devices.checking(words[0]):
            print(clean(line), flush=True)
    else:
        for line in devices.listing(arguments):
            print(clean(line), flush=True)

"""The options: what each one takes, where it can be given, what wins, and what a mistake is told."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import pytest

from aioserve.config import GROUPS, OPTIONS, Config, ConfigError, Option, Settings, load_config

PROJECT = Path(__file__).parents[1]


class Links(StrEnum):
    NONE = "none"


# What a file can hold of options that are tables.
TABLES = {
    "redirects": '[{ from = "/a", to = "/b" }]',
    "rewrites": '[{ from = "/a", to = "/b" }]',
    "headers": '[{ for = "/a", values = { X = "1" } }]',
    "errors": '{ 404 = "404.html" }',
}


# Texts of options that have none by default, and do not take just any.
SAMPLES = {"cache_control": "*.js: no-cache", "cors": "https://a.example", "header": "X: 1"}


def load(
    folder: Path, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    return load_config(flags or {}, environ or {}, str(folder))


# ---- the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
class TestEveryOption:
    def test_it_says_what_it_is_for(self, option: Option) -> None:
        assert option.help.endswith(".")
        assert option.group in GROUPS
        assert option.kind.expected

    def test_its_unit_is_told_where_it_takes_a_value(self, option: Option) -> None:
        assert bool(option.kind.metavar) is not option.kind.switch

    def test_its_default_is_a_value_that_it_takes(self, option: Option) -> None:
        assert option.parse(option.default, "") == option.default

    def test_what_is_shown_of_its_default_can_be_written(self, option: Option) -> None:
        if option.default is not None:
            assert option.parse(option.kind.show(option.default), "") == option.default

    def test_its_names_come_from_one_word(self, option: Option) -> None:
        words = option.word.replace("_", "-")

        assert option.flags[-1:] == (() if option.kind.is_table else ("--" + words,))
        assert option.environment == (None if option.kind.is_table else "AIOSERVE_" + option.word.upper())
        assert option.key == (None if option.name == "config" else words)

    def test_none_of_its_flags_is_c_which_means_three_things_elsewhere(self, option: Option) -> None:
        assert "-c" not in option.flags

    def test_a_value_of_no_type_that_it_knows_is_refused(self, option: Option) -> None:
        with pytest.raises(ConfigError, match=r"^here: got <object .*, expected "):
            option.parse(object(), "here")


def test_no_name_is_used_twice() -> None:
    for names in (
        [name for option in OPTIONS for name in {option.name, option.word}],
        [flag for option in OPTIONS for flag in option.flags],
        [option.environment for option in OPTIONS if option.environment],
    ):
        assert len(names) == len(set(names))


def test_every_attribute_of_config_is_an_option_that_programs_can_give() -> None:
    assert [option.name for option in OPTIONS if option.embeddable] == list(Config.__annotations__)


def test_the_page_of_options_is_made_from_the_table() -> None:
    render = runpy.run_path(str(PROJECT / "docs" / "generate_configuration.py"))["render"]

    assert (PROJECT / "docs" / "configuration.md").read_text() == render()


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        pytest.param("port", 8000, 8000, id="a port is a number"),
        pytest.param("port", "8000", 8000, id="a port can be text"),
        pytest.param("port", " 80 ", 80, id="blanks around a number do not count"),
        pytest.param("port", 0, 0, id="port 0 asks for a free one"),
        pytest.param("port", 65535, 65535, id="65535 is the last port"),
        pytest.param("host", "::1", ("::1",), id="one host is enough"),
        pytest.param("host", "[::1]", ("::1",), id="an IPv6 address may stand in brackets as in a URL"),
        pytest.param("host", ["a.example", "b"], ("a.example", "b"), id="hosts can be a list"),
        pytest.param("host", "127.0.0.1, ::1", ("127.0.0.1", "::1"), id="commas separate hosts"),
        pytest.param("host", "a,b,a", ("a", "b"), id="a host that is named twice counts once"),
        pytest.param("host", "fe80::1%eth0", ("fe80::1%eth0",), id="an IPv6 address can name its interface"),
        pytest.param("index", "a.html,b.html", ("a.html", "b.html"), id="commas separate index names"),
        pytest.param("index", ("a,b.html",), ("a,b.html",), id="an index name of a list can hold a comma"),
        pytest.param("index", "", (), id="no index name at all"),
        pytest.param("hidden", True, True, id="a switch is a bool"),
        pytest.param("hidden", "on", True, id="a switch can be on"),
        pytest.param("hidden", "YES", True, id="a switch can be YES"),
        pytest.param("hidden", "1", True, id="a switch can be the text 1"),
        pytest.param("server_header", "off", False, id="a switch can be off"),
        pytest.param("server_header", "false", False, id="a switch can be false"),
        pytest.param("symlinks", "all", "all", id="a choice is one of its words"),
        pytest.param("symlinks", "None", "none", id="a choice may be written in capitals"),
        pytest.param("symlinks", Links.NONE, "none", id="a choice can be a member of an enum of texts"),
        pytest.param("grace", 0, 0.0, id="no grace at all"),
        pytest.param("grace", 1.5, 1.5, id="seconds have fractions"),
        pytest.param("grace", "1.5", 1.5, id="seconds have fractions in text too"),
        pytest.param("grace", "15s", 15.0, id="s is seconds"),
        pytest.param("grace", "500ms", 0.5, id="ms is thousandths"),
        pytest.param("grace", "2 m", 120.0, id="m is minutes, and may stand apart"),
        pytest.param("grace", "24h", 86400.0, id="h is hours, a day at most"),
        pytest.param("max_head", 4096, 4096, id="a size is a number of bytes"),
        pytest.param("max_head", "65536", 65536, id="a size can be text"),
        pytest.param("max_head", "64K", 65536, id="K is 1024"),
        pytest.param("max_head", "64KiB", 65536, id="KiB is 1024"),
        pytest.param("max_head", "1mib", 1 << 20, id="MiB may be written small"),
        pytest.param("max_linger", "1G", 1 << 30, id="G is 1024 M"),
        pytest.param("max_linger", "7B", 7, id="B is one byte"),
    ],
)
def test_a_value_can_be_written(option: str, value: object, expected: object) -> None:
    config = Config.from_options(**{option: value})

    (field,) = (known.name for known in OPTIONS if option in (known.name, known.word))
    result = getattr(config, field)
    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        pytest.param("port", True, "a whole number from 0 to 65535", id="True is no port"),
        pytest.param("port", 65536, "a whole number from 0 to 65535", id="a port has 16 bits"),
        pytest.param("port", -1, "a whole number from 0 to 65535", id="a port is not negative"),
        pytest.param("port", "-1", "a whole number", id="a text has no sign"),
        pytest.param("port", "+1", "a whole number", id="not even a plus"),
        pytest.param("port", 80.0, "a whole number", id="a float is no port"),
        pytest.param("port", "80.0", "a whole number", id="nor is one in text"),
        pytest.param("port", "8_0", "a whole number", id="an underscore is no digit"),
        pytest.param("port", "٨٠", "a whole number", id="digits of other scripts are none"),
        pytest.param("port", "80s", "a whole number", id="a port has no unit"),
        pytest.param("port", "", "a whole number", id="an empty text is no port"),
        pytest.param("port", None, "a whole number", id="None is no port"),
        pytest.param("port", "9" * 5000, "a whole number", id="thousands of digits are no port"),
        pytest.param("host", "", "addresses or host names", id="no host"),
        pytest.param("host", (), "addresses or host names", id="an empty list of hosts"),
        pytest.param("host", [""], "addresses or host names", id="a list with an empty host"),
        pytest.param("host", [1], "addresses or host names", id="a host that is a number"),
        pytest.param("host", b"::1", "addresses or host names", id="a host in bytes"),
        pytest.param("host", "127.0.0.1:80", "without a port", id="a host with a port"),
        pytest.param("host", "[::1]:80", "without a port", id="an IPv6 address with a port"),
        pytest.param("host", "http://a", "addresses or host names", id="a URL is no host"),
        pytest.param("host", "a b", "addresses or host names", id="a host with a blank"),
        pytest.param("host", "a\n", None, id="the blanks around a host do not count"),
        pytest.param("host", ["a\n"], "addresses or host names", id="a host with a line end"),
        pytest.param("index", "a/b.html", "without a folder", id="an index in another folder"),
        pytest.param("index", "..", "file names", id="an index that is the parent"),
        pytest.param("index", ["a\0b"], "file names", id="an index with NUL"),
        pytest.param("hidden", 1, "on or off", id="a number is no switch"),
        pytest.param("hidden", "maybe", "on or off", id="neither on nor off"),
        pytest.param("symlinks", "outside", "one of none, inside, all", id="a word that is no choice"),
        pytest.param("log_format", "xml", "one of off, common, combined, json", id="an unknown log format"),
        pytest.param("grace", -0.1, "seconds from 0 to 86400", id="negative seconds"),
        pytest.param("grace", 86401, "seconds from 0 to 86400", id="more than a day"),
        pytest.param("grace", float("nan"), "seconds from 0", id="NaN seconds"),
        pytest.param("grace", float("inf"), "seconds from 0", id="endless seconds"),
        pytest.param("grace", "inf", "seconds from 0", id="endless seconds in text"),
        pytest.param("grace", "1e3", "seconds from 0", id="an exponent is no unit"),
        pytest.param("grace", "5d", "seconds from 0", id="days are no unit"),
        pytest.param("head_timeout", 0, "seconds from 0.001", id="a head must have some time"),
        pytest.param("max_head", "64KB", "such as 65536, 64K or 64KiB", id="KB may be 1000 or 1024"),
        pytest.param("max_head", "1.5K", "a size from 256 bytes to 16MiB", id="a size in fractions"),
        pytest.param("max_head", 255, "a size from 256 bytes", id="a head too small for a request"),
        pytest.param("threads", 0, "a whole number from 1", id="no threads at all"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(
    option: str, value: object, expected: str | None
) -> None:
    if expected is None:
        assert Config.from_options(**{option: value}) == Config.from_options(**{option: str(value).strip()})
        return
    with pytest.raises(ConfigError, match=rf"^{option}: got .*, expected .*{re.escape(expected)}"):
        Config.from_options(**{option: value})


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_options(symlinks="x" * 1000)

    assert "xxx..., expected one of" in str(caught.value)
    assert len(str(caught.value)) < 200


# ---- programs --------------------------------------------------------------------------------------------


class TestFromAProgram:
    def test_nothing_given_is_every_default(self) -> None:
        assert Config.from_options() == Config()

    def test_an_option_can_be_named_as_on_the_command_line(self) -> None:
        assert Config.from_options(head_timeout=3) == Config.from_options(head_timeout_s=3)

    def test_both_names_of_one_option_are_refused(self) -> None:
        with pytest.raises(
            ConfigError, match=r"^grace: the same option as grace_s, expected one of the two$"
        ):
            Config.from_options(grace_s=1, grace=1)

    def test_an_unknown_option_is_told_its_neighbour(self) -> None:
        with pytest.raises(ConfigError, match=r"^prot: no such option; did you mean port\?$"):
            Config.from_options(prot=80)

    def test_an_option_like_no_other_is_told_where_to_look(self) -> None:
        with pytest.raises(ConfigError, match=r"^qqqq: no such option; aioserve serve --help lists them$"):
            Config.from_options(qqqq=1)

    def test_an_option_of_the_command_alone_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"^quiet: an option of the command line"):
            Config.from_options(quiet=True)

    def test_the_mistake_is_a_value_error(self) -> None:
        with pytest.raises(ValueError):
            Config.from_options(port="http")

    def test_a_config_made_directly_is_checked_too(self) -> None:
        with pytest.raises(ConfigError, match=r"^port: got 65536, expected"):
            Config(port=65536)

    def test_a_config_made_directly_takes_no_text_for_a_number(self) -> None:
        with pytest.raises(ConfigError, match=r"^port: got '80', expected"):
            Config(port="80")  # type: ignore[arg-type]

    def test_a_config_takes_no_option_that_there_is_not(self) -> None:
        with pytest.raises(TypeError, match=r"^Config has no option 'prot'$"):
            Config(prot=80)  # type: ignore[call-arg]

    def test_configs_with_equal_values_are_equal(self) -> None:
        assert Config(port=8080) == Config()
        assert hash(Config(port=8080)) == hash(Config())
        assert Config(port=80) != Config()
        assert Config() != load_config({}, {}, "").console

    def test_a_config_shows_its_values(self) -> None:
        assert repr(Config(port=80)).startswith("Config(port=80, host=('127.0.0.1',), backlog=2048, ")

    def test_a_config_can_be_made_from_another(self) -> None:
        assert Config(port=80, hidden=True).replace(port=81) == Config(port=81, hidden=True)

    def test_a_config_made_from_another_is_checked_too(self) -> None:
        with pytest.raises(ConfigError, match=r"^port: got 65536, expected"):
            Config().replace(port=65536)

    def test_a_config_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            Config().port = 1  # type: ignore[misc]

    def test_environment_and_files_are_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "aioserve.toml").write_text("port = 1")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("AIOSERVE_PORT", "2")

        assert Config.from_options().port == 8080


# ---- places ----------------------------------------------------------------------------------------------


class TestPrecedence:
    def test_without_anything_there_are_the_defaults(self, tmp_path: Path) -> None:
        settings = load(tmp_path)

        assert settings.config == Config()
        assert settings.given == frozenset()

    def test_a_file_comes_before_the_default(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text("port = 1\nquiet = true")
        settings = load(tmp_path)

        assert (settings.config.port, settings.console.quiet) == (1, True)
        assert settings.given == {"port", "quiet"}

    def test_the_environment_comes_before_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text("port = 1\nthreads = 3")
        settings = load(tmp_path, environ={"AIOSERVE_PORT": "2"})

        assert (settings.config.port, settings.config.threads) == (2, 3)

    def test_a_flag_comes_before_the_environment(self, tmp_path: Path) -> None:
        settings = load(
            tmp_path,
            flags={"port": "3", "open": False},
            environ={"AIOSERVE_PORT": "2", "AIOSERVE_OPEN": "1", "AIOSERVE_GRACE": "1"},
        )

        assert (settings.config.port, settings.console.open, settings.config.grace_s) == (3, False, 1.0)

    def test_the_default_port_given_is_still_given(self, tmp_path: Path) -> None:
        assert "port" in load(tmp_path, flags={"port": "8080"}).given

    def test_a_wrong_value_is_told_even_where_another_place_wins(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text("port = 'x'")

        with pytest.raises(ConfigError, match=r"aioserve.toml: port: got 'x'"):
            load(tmp_path, flags={"port": "3"})

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
    def test_every_option_can_be_given_in_every_place(self, option: Option, tmp_path: Path) -> None:
        written = option.kind.show(option.default) or SAMPLES.get(option.name, "some")
        (tmp_path / "some").touch()
        wanted = None if option.kind.is_table else option.parse(written, "")
        places: list[tuple[dict[str, object], dict[str, str], str]] = []
        if option.flags:
            places.append(({option.name: written}, {}, ""))
        if option.environment:
            places.append(({}, {option.environment: written}, ""))
        if option.key:
            places.append(({}, {}, f"{option.key} = {TABLES.get(option.name, repr(written))}"))

        for flags, environ, text in places:
            (tmp_path / "aioserve.toml").write_text(text)
            settings = load(tmp_path, flags, environ)
            value = getattr(settings.config if option.embeddable else settings.console, option.name)
            assert settings.given == {option.name}
            if option.kind.is_table:
                assert value
            else:
                assert value == (str(tmp_path / written) if text and option.name == "directory" else wanted)


class TestConsole:
    """Kinds that only the command has."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            pytest.param("4", 4, id="a number as text"),
            pytest.param(256, 256, id="the most"),
            pytest.param("auto", "auto", id="auto"),
            pytest.param(" Auto ", "auto", id="auto in capitals"),
        ],
    )
    def test_workers_are_a_number_or_auto(self, value: object, expected: object, tmp_path: Path) -> None:
        assert load(tmp_path, {"workers": value}).console.workers == expected

    @pytest.mark.parametrize("value", ["0", "-1", "257", "1.5", "all", True])
    def test_other_numbers_of_workers_are_refused(self, value: object, tmp_path: Path) -> None:
        expected = "expected a whole number from 1 to 256, or auto"
        with pytest.raises(ConfigError, match=rf"^--workers: got .*, {expected}$"):
            load(tmp_path, {"workers": value})


class TestFlags:
    def test_a_wrong_value_is_told_with_its_flag(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^--head-timeout: got 'x', expected seconds"):
            load(tmp_path, flags={"head_timeout_s": "x"})


class TestEnvironment:
    def test_a_wrong_value_is_told_with_its_name(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^AIOSERVE_MAX_HEAD: got 'x', expected a size"):
            load(tmp_path, environ={"AIOSERVE_MAX_HEAD": "x"})

    def test_an_unknown_name_of_ours_is_told_its_neighbour(self, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"^AIOSERVE_PROT: no such option; did you mean AIOSERVE_PORT\?"
        ):
            load(tmp_path, environ={"AIOSERVE_PROT": "1"})

    def test_the_name_with_a_unit_is_told_the_one_without(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"did you mean AIOSERVE_HEAD_TIMEOUT\?"):
            load(tmp_path, environ={"AIOSERVE_HEAD_TIMEOUT_S": "1"})

    def test_names_of_others_are_left_alone(self, tmp_path: Path) -> None:
        assert load(tmp_path, environ={"PORT": "x", "_AIOSERVE_COMPLETE": "x"}).given == frozenset()

    def test_an_empty_variable_counts_as_absent(self, tmp_path: Path) -> None:
        assert load(tmp_path, environ={"AIOSERVE_PORT": ""}).given == frozenset()

    def test_what_kubernetes_adds_for_a_service_of_our_name_is_left_alone(self, tmp_path: Path) -> None:
        environ = {
            "AIOSERVE_SERVICE_HOST": "10.0.0.11",
            "AIOSERVE_SERVICE_PORT": "80",
            "AIOSERVE_SERVICE_PORT_WEB": "80",
            "AIOSERVE_PORT": "tcp://10.0.0.11:80",
            "AIOSERVE_PORT_80_TCP": "tcp://10.0.0.11:80",
            "AIOSERVE_PORT_80_TCP_PROTO": "tcp",
            "AIOSERVE_PORT_80_TCP_PORT": "80",
            "AIOSERVE_PORT_80_TCP_ADDR": "10.0.0.11",
            "AIOSERVE_THREADS": "8",
        }

        assert load(tmp_path, environ=environ).given == {"threads"}

    def test_beside_such_a_service_a_port_is_still_a_port(self, tmp_path: Path) -> None:
        environ = {"AIOSERVE_SERVICE_HOST": "10.0.0.11", "AIOSERVE_PORT": "8000"}

        assert load(tmp_path, environ=environ).config.port == 8000

    def test_without_such_a_service_its_names_are_mistakes(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^AIOSERVE_SERVICE_PORT: no such option"):
            load(tmp_path, environ={"AIOSERVE_SERVICE_PORT": "80"})


class TestFiles:
    def test_values_have_the_types_of_toml(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text(
            'port = 1\ngrace = 1.5\nhidden = true\nhost = ["a", "b"]\nmax-head = "1KiB"\nmax_fields = 7\n'
        )

        assert load(tmp_path).config == Config(
            port=1, grace_s=1.5, hidden=True, host=("a", "b"), head_bytes=1024, fields=7
        )

    @pytest.mark.parametrize(
        "table",
        [
            "[tool.aioserve]\nport = 1",
            "[tool]\naioserve.port = 1",
            "[tool]\naioserve = { port = 1 }",
            "tool.aioserve.port = 1",
            "tool = { aioserve = { port = 1 } }",
            '[ "tool" . "aioserve" ]\nport = 1',
        ],
    )
    def test_the_table_of_a_project_is_found_however_it_is_written(self, table: str, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text(table)

        assert load(tmp_path).config.port == 1

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("[project]\nname = 'aioserve'", id="another table"),
            pytest.param("[tool]\nother = 1", id="no tool of our name"),
            pytest.param("tool = 1", id="no tools at all"),
            pytest.param("this is not TOML", id="a broken file without our table"),
        ],
    )
    def test_a_project_without_our_table_says_nothing(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text(text)

        assert load(tmp_path).given == frozenset()

    def test_our_own_file_comes_before_the_project(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text("port = 1")
        (tmp_path / "pyproject.toml").write_text("[tool.aioserve]\nport = 2\nthreads = 2")

        assert load(tmp_path).given == {"port"}

    @pytest.mark.parametrize("place", ["flag", "environment"])
    def test_a_named_file_comes_before_those_in_the_folder(self, place: str, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text("threads = 1")
        (tmp_path / "other.toml").write_text("port = 1")
        named = {"config": "other.toml"} if place == "flag" else {}
        environ = {"AIOSERVE_CONFIG": "other.toml"} if place == "environment" else {}

        assert load(tmp_path, named, environ).given == {"config", "port"}

    def test_the_flag_names_the_file_before_the_environment(self, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text("port = 1")

        settings = load(tmp_path, {"config": str(tmp_path / "a.toml")}, {"AIOSERVE_CONFIG": "absent"})

        assert settings.config.port == 1

    def test_a_project_can_be_named(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "pyproject.toml").write_text("[tool.aioserve]\nport = 1")

        assert load(tmp_path, {"config": "sub/pyproject.toml"}).config.port == 1

    def test_a_path_in_a_file_starts_at_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a.toml").write_text("directory = 'site'")

        assert load(tmp_path, {"config": "sub/a.toml"}).console.directory == str(tmp_path / "sub" / "site")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param(b"port = 'x'", "aioserve.toml: port: got 'x', expected a whole", id="a wrong value"),
            pytest.param(b"directory = ''", "directory: got '', expected a path", id="an empty path"),
            pytest.param(b"port = 1979-05-27", "port: got datetime.date", id="a date for a port"),
            pytest.param(b"prot = 1", "prot: no such option; did you mean port?", id="an unknown key"),
            pytest.param(
                b"head_timeout_sec = 1",
                "head_timeout_sec: no such option; did you mean head-timeout?",
                id="an unknown key with underscores",
            ),
            pytest.param(b"[server]\nport = 1", "server: no such option", id="an unknown table"),
            pytest.param(b"config = 'x'", "config: no such option", id="a file that names a file"),
            pytest.param(
                b"grace = 1\ngrace_s = 1",
                "grace_s: the same option as ",
                id="one option under both of its names",
            ),
            pytest.param(b"port = 1\n\nhost =", "aioserve.toml, line 3: Invalid value", id="no value"),
            pytest.param(b"port = 1\nhidden", "aioserve.toml, line 2: Expected '='", id="an open end"),
            pytest.param(b'\nhost = "', "aioserve.toml, line 2: Unterminated string", id="an open string"),
            pytest.param(b"port = 1\nhost = '\xff'", "aioserve.toml, line 2: not UTF-8", id="no UTF-8"),
        ],
    )
    def test_a_mistake_is_told_with_its_place(self, text: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_bytes(text)

        with pytest.raises(ConfigError) as caught:
            load(tmp_path)

        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_mistake_in_a_project_is_told_with_its_table(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[tool.aioserve]\nprot = 1")

        with pytest.raises(ConfigError, match=r"pyproject.toml: tool.aioserve.prot: no such option"):
            load(tmp_path)

    def test_our_table_of_a_project_must_be_one(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("tool.aioserve = 3")

        with pytest.raises(ConfigError, match=r"pyproject.toml: tool.aioserve: got 3, expected a table$"):
            load(tmp_path)

    def test_a_named_file_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"absent.toml: No such file or directory, expected a file"):
            load(tmp_path, {"config": "absent.toml"})

    def test_a_file_must_be_readable(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").mkdir()

        with pytest.raises(ConfigError, match=r"aioserve.toml: Is a directory, expected a file"):
            load(tmp_path)


class TestTables:
    """Rules and pages, which have parts."""

    FILE = """
        [[redirects]]
        from = "/old/*"
        to = "/new/:splat"
        status = 302
        force = true

        [[redirects]]
        from = "/store"
        query = { id = ":id" }
        to = "/goods/:id"

        [[rewrites]]
        from = "/app/*"
        to = "/app/index.html"

        [[headers]]
        for = "/*.js"
        values = { X-Robots-Tag = "noindex", X-One = ["1", "2"] }

        [errors]
        404 = "/pages/404.html"
        503 = "50x.html"
    """

    def test_a_file_can_hold_them(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text(self.FILE)

        config = load(tmp_path).config

        assert [(rule.origin, rule.status, rule.is_forced) for rule in config.redirects] == [
            ("redirects[0]", 302, True),
            ("redirects[1]", 301, False),
        ]
        assert [(rule.origin, rule.status) for rule in config.rewrites] == [("rewrites[0]", 200)]
        assert [(rule.origin, len(rule.fields)) for rule in config.headers] == [("headers[0]", 3)]
        assert config.errors == ((404, "pages/404.html"), (503, "50x.html"))

    def test_a_project_can_hold_them(self, tmp_path: Path) -> None:
        text = self.FILE.replace("[[", "[[tool.aioserve.").replace("[errors]", "[tool.aioserve.errors]")
        (tmp_path / "pyproject.toml").write_text(text)

        assert len(load(tmp_path).config.redirects) == 2

    def test_a_program_gives_dictionaries(self) -> None:
        config = Config.from_options(
            redirects=[{"from": "/a", "to": "/b"}],
            headers=({"for": "/a", "values": {"X": "1"}},),
            errors={404: "404.html"},
        )

        assert config.redirects[0].status == 301
        assert config.headers[0].origin == "headers[0]"
        assert config.errors == ((404, "404.html"),)

    def test_what_was_read_is_read_again(self) -> None:
        config = Config.from_options(redirects=[{"from": "/a", "to": "/b"}], errors={"404": "404.html"})

        assert config.replace(port=1).redirects == config.redirects
        assert hash(config.replace()) == hash(config)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param("redirects = 1", "redirects: got 1, expected tables with from, to", id="a number"),
            pytest.param("redirects = '/a /b'", "redirects: got '/a /b', expected tables", id="a text"),
            pytest.param(
                "redirects = ['/a /b']",
                "redirects[0]: got '/a /b', expected a table with from",
                id="a text in a list",
            ),
            pytest.param(
                "[redirects]\nfrom = '/a'", "redirects: got {'from': '/a'}, expected tables", id="one table"
            ),
            pytest.param(
                "[[redirects]]\nfrom='/a'\nto='/b'\n[[redirects]]\nfrom='a'\nto='/b'",
                "redirects[1].from: got 'a', expected a path that begins with /",
                id="the second of two",
            ),
            pytest.param(
                "[[redirects]]\nfrom='/a'\nto='/b'\nquery={x=1}",
                "redirects[0].query.x: got 1",
                id="a part of a part",
            ),
            pytest.param(
                "[[rewrites]]\nfrom='/a'\nto='/b'\nstatus=200",
                "rewrites[0].status: got 200, expected no such key: a table with from, to, force, query",
                id="a status of a rewrite",
            ),
            pytest.param(
                "[[headers]]\nfor='/a'\nvalues={Date='1'}",
                "headers[0].values.Date: got '1', expected a field",
                id="a field",
            ),
            pytest.param("[errors]\n404 = 1", "errors.404: got 1, expected the path of a file", id="no page"),
            pytest.param(
                "[errors]\n404 = '../x'", "errors.404: got '../x', expected the path", id="a page outside"
            ),
            pytest.param(
                "[errors]\n200 = 'x'", "errors: got '200', expected a status from 400", id="no error"
            ),
            pytest.param("[errors]\n0404 = 'x'", "errors: got '0404', expected a status", id="no status"),
            pytest.param("errors = [404]", "errors: got [404], expected a table", id="a list of statuses"),
        ],
    )
    def test_a_mistake_is_told_with_its_place(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text(text)

        with pytest.raises(ConfigError, match=re.escape(f"aioserve.toml: {message}")):
            load(tmp_path)

    def test_no_text_is_a_table(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="AIOSERVE_REDIRECTS: no such option"):
            load(tmp_path, environ={"AIOSERVE_REDIRECTS": "/a /b"})

    def test_a_program_is_told_as_well(self) -> None:
        with pytest.raises(ConfigError, match=re.escape("rewrites[0].to: got 'b', expected a path")):
            Config.from_options(rewrites=[{"from": "/a", "to": "b"}])


def test_what_only_mistakes_and_files_need_is_not_imported() -> None:
    program = (
        "import sys; before = set(sys.modules); from aioserve.config import Config, load_config;"
        "Config.from_options(port=1); load_config({'port': '1'}, {}, '/');"
        "print(*(set(sys.modules) - before))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"tomllib", "difflib", "pathlib", "asyncio", "logging", "click"})
    assert {name for name in loaded if name.startswith("aioserve")} == {"aioserve", "aioserve.config"}

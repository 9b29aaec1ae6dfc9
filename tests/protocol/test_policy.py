"""Whose wish counts for which URL, and what becomes of each kind of answer."""

from __future__ import annotations

import pytest

from aioserve.protocol.cors import Cors
from aioserve.protocol.globs import parse_glob
from aioserve.protocol.message import Fields, Request
from aioserve.protocol.plan import Empty, Plan, plan_error, plan_file, plan_options, plan_redirect
from aioserve.protocol.policy import (
    COI_FIELDS,
    DEFAULT,
    IMMUTABLE,
    SECURITY_FIELDS,
    Policies,
    Policy,
    Wishes,
    apply_policy,
    merge_vary,
)
from aioserve.protocol.variant import Variant
from tests.protocol.test_plan import OpenText

HASHED = (b"assets", b"index-BhbPfTHF.js")
PAGE = (b"index.html",)
NOW_S = 1_700_000_000
PARTS = {"range": "bytes=0-1,5-6"}


def make_request(method: str = "GET", **fields: str) -> Request:
    values = {name.replace("_", "-"): value for name, value in fields.items()}
    return Request(method, b"/", (1, 1), Fields(values))


def plan_of(method: str = "GET", **fields: str) -> Plan:
    variant = Variant(None, 10, 1_600_000_000_000_000_000, OpenText(bytes(10)))
    return plan_file(
        make_request(method, **fields), variant, "text/css; charset=utf-8", now_s=NOW_S, boundary="b"
    )


WHOLE = plan_of()
PART = plan_of(range="bytes=0-1")
SEVERAL = plan_of(range="bytes=0-1,5-6")
CURRENT = plan_of(if_none_match="*")
FAILED = plan_of(if_match='"other"')
UNSATISFIABLE = plan_of(range="bytes=99-")
MISSING = plan_error(make_request(), 404)
BROKEN = plan_error(None, 400)
METHOD = plan_error(make_request("PUT"), 405)
MOVED = plan_redirect("./a/")
OPTIONS = plan_options()

SUCCEEDED = [
    pytest.param(WHOLE, id="200"),
    pytest.param(plan_of("HEAD"), id="200 to HEAD"),
    pytest.param(PART, id="206"),
    pytest.param(SEVERAL, id="206 with parts"),
    pytest.param(CURRENT, id="304"),
]
ERRORS = [
    pytest.param(plan, id=str(plan.status)) for plan in (FAILED, UNSATISFIABLE, MISSING, BROKEN, METHOD)
]
OTHERS = [pytest.param(MOVED, id="308"), pytest.param(OPTIONS, id="204")]
ALL = [*SUCCEEDED, *ERRORS, *OTHERS]


def list_values(plan: Plan, name: str) -> list[str]:
    return [value for key, value in plan.fields if key.lower() == name]


def test_the_plans_are_those_that_their_names_say() -> None:
    plans = (WHOLE, PART, SEVERAL, CURRENT, FAILED, UNSATISFIABLE)
    assert [plan.status for plan in plans] == [200, 206, 206, 304, 412, 416]


class TestCacheControlByItself:
    def test_a_file_may_change_and_is_asked_about(self) -> None:
        assert Policies().find(PAGE, PAGE) is DEFAULT
        assert DEFAULT.cache_control == "no-cache"

    def test_a_name_with_a_content_hash_is_kept_for_a_year(self) -> None:
        policy = Policies().find(HASHED, HASHED)
        assert policy.cache_control == "public, max-age=31536000, immutable"
        assert policy.error_cache_control == "no-cache"

    def test_a_page_in_place_of_a_hashed_name_is_asked_about(self) -> None:
        assert Policies().find(HASHED, PAGE) is DEFAULT

    def test_a_hashed_name_that_is_missing_is_asked_about(self) -> None:
        assert Policies().find(HASHED) is DEFAULT

    def test_nothing_is_ever_forbidden_to_be_kept(self) -> None:
        assert "no-store" not in f"{Policies().find(HASHED, HASHED)} {DEFAULT}"

    @pytest.mark.parametrize("plan", SUCCEEDED)
    def test_all_answers_with_a_hashed_file_are_immutable(self, plan: Plan) -> None:
        answer = apply_policy(plan, Policies().find(HASHED, HASHED))
        assert list_values(answer, "cache-control") == [IMMUTABLE]

    @pytest.mark.parametrize("plan", ERRORS)
    def test_errors_are_never_immutable(self, plan: Plan) -> None:
        answer = apply_policy(plan, Policies().find(HASHED, HASHED))
        assert list_values(answer, "cache-control") == ["no-cache"]


class TestCacheControlOfTheOwner:
    policies = Policies(
        fields=[("Cache-Control", "max-age=1")],
        cache_control=[
            (parse_glob("*.html"), "max-age=2"),
            (parse_glob("/assets/**"), "max-age=3"),
            (parse_glob("*.js"), "max-age=4"),
            (parse_glob("/secret/**"), "private, no-store"),
        ],
    )

    @pytest.mark.parametrize(
        ("url", "file", "expected"),
        [
            pytest.param("a.txt", "a.txt", "max-age=1", id="no glob: --header"),
            pytest.param("index.html", "index.html", "max-age=2", id="a glob before --header"),
            pytest.param("assets/a.js", "assets/a.js", "max-age=4", id="the last glob that names it"),
            pytest.param("assets/a.css", "assets/a.css", "max-age=3", id="the only one that names it"),
            pytest.param("about", "about.html", "max-age=2", id="the file counts, not the address"),
            pytest.param("assets/x.js", "index.html", "max-age=2", id="a page in place of a script"),
            pytest.param("folder", None, "max-age=1", id="a redirect goes by its address"),
            pytest.param("assets/x", None, "max-age=3", id="a listing goes by its address"),
        ],
    )
    def test_the_most_meant_wish_counts(self, url: str, file: str | None, expected: str) -> None:
        found = None if file is None else tuple(file.encode().split(b"/"))
        assert self.policies.find(tuple(url.encode().split(b"/")), found).cache_control == expected

    def test_errors_keep_their_own(self) -> None:
        answer = apply_policy(MISSING, self.policies.find((b"a.html",)))
        assert list_values(answer, "cache-control") == ["no-cache"]

    def test_what_must_not_be_kept_is_not_kept_as_an_error(self) -> None:
        answer = apply_policy(MISSING, self.policies.find((b"secret", b"a")))
        assert list_values(answer, "cache-control") == ["private, no-store"]

    def test_a_redirect_has_the_owners(self) -> None:
        answer = apply_policy(MOVED, self.policies.find((b"assets", b"a")))
        assert list_values(answer, "cache-control") == ["max-age=3"]

    def test_it_can_be_removed(self) -> None:
        policy = Policies().find(PAGE, PAGE, rules=Wishes((), frozenset({"cache-control"})))
        assert list_values(apply_policy(WHOLE, policy), "cache-control") == []
        assert list_values(apply_policy(MISSING, policy), "cache-control") == ["no-cache"]

    def test_rules_are_below_what_is_typed(self) -> None:
        rules = Wishes((("cache-control", "max-age=9"),))
        assert Policies().find(HASHED, HASHED, rules=rules).cache_control == "max-age=9"
        assert self.policies.find(PAGE, PAGE, rules=rules).cache_control == "max-age=2"
        assert self.policies.find((b"a",), (b"a",), rules=rules).cache_control == "max-age=1"


class TestFields:
    policy = Policies(
        fields=[("X-One", "1"), ("X-Two", "2"), ("x-two", "3"), ("X-Content-Type-Options", "none")]
    ).find(())

    @pytest.mark.parametrize("plan", ALL)
    def test_they_are_on_every_answer_once(self, plan: Plan) -> None:
        answer = apply_policy(plan, self.policy)
        assert list_values(answer, "x-one") == ["1"]
        assert list_values(answer, "x-two") == ["2", "3"]
        assert list_values(answer, "x-content-type-options") == ["none"]

    @pytest.mark.parametrize("plan", ALL)
    def test_nothing_else_changes(self, plan: Plan) -> None:
        answer = apply_policy(plan, self.policy)
        ours = {"x-one", "x-two", "x-content-type-options"}
        assert [f for f in answer.fields if f[0].lower() not in ours | {"vary"}] == [
            f for f in plan.fields if f[0].lower() not in ours | {"vary"}
        ]
        assert list_values(answer, "vary") == list_values(plan, "vary")
        assert (answer.status, answer.body) == (plan.status, plan.body)

    @pytest.mark.parametrize("plan", ALL)
    def test_what_frames_the_message_cannot_be_touched(self, plan: Plan) -> None:
        names = [
            "Content-Length",
            "Content-Range",
            "ETag",
            "Allow",
            "Location",
            "Content-Type",
            "Accept-Ranges",
        ]
        wishes = Wishes(
            tuple((name, "x") for name in names), frozenset({"transfer-encoding", "content-type", "allow"})
        )
        assert sorted(apply_policy(plan, Policies().find((), rules=wishes)).fields) == sorted(plan.fields)

    def test_a_type_is_handed_to_who_plans_the_file(self) -> None:
        wishes = Wishes((("Content-Type", "text/x-own"),))
        assert Policies().find(PAGE, PAGE, rules=wishes).content_type == "text/x-own"
        assert DEFAULT.content_type is None

    @pytest.mark.parametrize(
        ("name", "plans"),
        [
            ("Content-Disposition", (WHOLE, PART, SEVERAL)),
            ("Content-Language", (WHOLE, PART, SEVERAL)),
            ("Content-Location", (WHOLE, PART, SEVERAL, CURRENT)),
            ("Expires", (WHOLE, PART, SEVERAL, CURRENT)),
        ],
    )
    def test_what_describes_the_file_is_on_answers_with_the_file(self, name: str, plans: tuple[Plan]) -> None:
        policy = Policies(fields=[(name, "x")]).find(())
        for plan in (WHOLE, PART, SEVERAL, CURRENT, FAILED, UNSATISFIABLE, MISSING, MOVED, OPTIONS):
            assert (list_values(apply_policy(plan, policy), name.lower()) == ["x"]) is (plan in plans)

    def test_what_is_removed_is_missing(self) -> None:
        policy = Policies().find((), rules=Wishes((), frozenset({"x-content-type-options"})))
        assert list_values(apply_policy(WHOLE, policy), "x-content-type-options") == []

    def test_a_later_source_replaces_the_name_of_an_earlier_one(self) -> None:
        policies = Policies(presets=[(("A", "1"), ("B", "1"), ("C", "1"), ("D", "1"))], fields=[("a", "3")])
        policy = policies.find((), rules=Wishes((("b", "2"), ("A", "2")), frozenset({"c"})))
        assert policy.fields == (("D", "1"), ("b", "2"), ("a", "3"))
        assert policy.removed == {"c"}

    def test_what_is_typed_brings_back_what_a_rule_removes(self) -> None:
        policy = Policies(fields=[("X", "1")]).find((), rules=Wishes((), frozenset({"x"})))
        assert (policy.fields, policy.removed) == ((("X", "1"),), frozenset())


class TestVary:
    def test_what_the_owner_adds_is_merged(self) -> None:
        policies = Policies(fields=[("Vary", "Cookie, accept")], cors=Cors(("https://a.example",)))
        policy = policies.find((), rules=Wishes((("Vary", "DNT"),)))
        assert list_values(apply_policy(MISSING, policy), "vary") == ["Accept, Origin, DNT, Cookie"]
        assert list_values(apply_policy(CURRENT, policy), "vary") == ["Origin, DNT, Cookie, accept"]

    @pytest.mark.parametrize(
        ("before", "names", "after"),
        [
            ("", [], ""),
            ("", ["Origin"], "Origin"),
            ("Accept", [], "Accept"),
            ("Accept", ["accept"], "Accept"),
            ("Accept", ["Origin", "ORIGIN"], "Accept, Origin"),
            ("*", ["Origin"], "*"),
            ("Accept-Encoding", ["Accept"], "Accept-Encoding, Accept"),
            ("Accept", [" Origin ", ""], "Accept, Origin"),
        ],
    )
    def test_names_are_there_once(self, before: str, names: list[str], after: str) -> None:
        assert merge_vary(before, names) == after


class TestPresets:
    def test_isolation_wins_over_the_opener_policy_of_the_other_preset(self) -> None:
        policy = Policies(presets=[SECURITY_FIELDS, COI_FIELDS]).find(())
        assert [value for name, value in policy.fields if name == "Cross-Origin-Opener-Policy"] == [
            "same-origin"
        ]

    @pytest.mark.parametrize("plan", ALL)
    def test_they_are_on_every_answer(self, plan: Plan) -> None:
        answer = apply_policy(plan, Policies(presets=[SECURITY_FIELDS]).find(()))
        assert set(SECURITY_FIELDS) <= set(answer.fields)
        assert list_values(answer, "x-content-type-options") == ["nosniff"]

    def test_plain_http_is_never_told_to_become_https(self) -> None:
        assert "Strict-Transport-Security" not in dict((*SECURITY_FIELDS, *COI_FIELDS))


class TestSharing:
    def test_equal_policies_are_one_object(self) -> None:
        policies = Policies(fields=[("X", "1")])
        assert policies.find((b"a",), (b"a",)) is policies.find((b"b",), (b"b",))
        assert policies.find(HASHED, HASHED) is policies.find((b"c",), (b"main.8e3f9a1b.js",))
        assert policies.find(PAGE, PAGE) is not policies.find(HASHED, HASHED)

    def test_origins_that_are_not_allowed_are_one(self) -> None:
        policies = Policies(cors=Cors(("https://a.example",)))
        strangers = {id(policies.find(PAGE, PAGE, origin=f"https://{i}.example")) for i in range(100)}
        assert strangers == {id(policies.find(PAGE, PAGE))}

    def test_no_wish_changes_nothing(self) -> None:
        assert apply_policy(WHOLE, DEFAULT) is WHOLE

    def test_a_policy_can_be_a_key(self) -> None:
        assert {Policy(): 1}[Policy()] == 1

    def test_a_request_that_names_nothing_has_the_general_policy(self) -> None:
        policies = Policies(fields=[("X", "1")], cors=Cors(("*",)))
        answer = apply_policy(BROKEN, policies.find_general())
        assert list_values(answer, "x") == ["1"]
        assert list_values(answer, "access-control-allow-origin") == ["*"]

    def test_a_status_without_a_cache_gets_no_cache_control(self) -> None:
        answer = apply_policy(Plan(204, (), Empty()), Policies(fields=[("Cache-Control", "x")]).find(()))
        assert answer.fields == ()

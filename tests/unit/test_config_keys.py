"""Key discovery: which keys are found or skipped, and that no value is ever shown."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.api_key import ApiKey
from config.errors import SettingsError
from config.keys import Discovery, discover_keys, load_keys, refuse_wrong_values, require_any_key
from tests.unit.sample_keys import GROQ, GROQ_2, RESEND


def facts(discovery: Discovery) -> list[tuple[str, str, str]]:
    return [
        (problem.variable, problem.severity, problem.sentence.removeprefix(problem.variable + " "))
        for problem in discovery.problems
    ]


def test_ten_keys_are_found_in_order_over_gaps() -> None:
    environ = {f"GROQ_API_KEY_{number}": f"{GROQ}{number}" for number in (10, 2, 7)}
    discovery = discover_keys("groq", environ)
    assert [key.variable for key in discovery.keys] == [
        "GROQ_API_KEY_2",
        "GROQ_API_KEY_7",
        "GROQ_API_KEY_10",
    ]
    assert discovery.problems == ()


TABLE = [
    # The variables, those that have keys, and the reports.
    ({}, [], []),
    ({"GROQ_API_KEY": ""}, [], [("GROQ_API_KEY", "skipped", "is blank")]),
    ({"GROQ_API_KEY": " \t"}, [], [("GROQ_API_KEY", "skipped", "is blank")]),
    ({"GROQ_API_KEY": "gsk_your_key"}, [], [("GROQ_API_KEY", "skipped", "contains a placeholder")]),
    (
        {"GROQ_API_KEY": f"{GROQ} {GROQ_2}"},
        [],
        [("GROQ_API_KEY", "skipped", "contains a blank")],
    ),
    ({"GROQ_API_KEY": f'"{GROQ}"'}, [], [("GROQ_API_KEY", "skipped", "contains quotes")]),
    (
        {"GROQ_API_KEY": f"{GROQ}\n{GROQ_2}"},
        [],
        [("GROQ_API_KEY", "skipped", "contains a line break")],
    ),
    (
        {"GROQ_API_KEY": f"{GROQ}\x1b"},
        [],
        [("GROQ_API_KEY", "skipped", "contains a line break or another control")],
    ),
    (
        {"GROQ_API_KEY": f"{GROQ}é"},
        [],
        [("GROQ_API_KEY", "skipped", "contains characters that no key has")],
    ),
    # undecodable bytes in the environment arrive as lone surrogates
    (
        {"GROQ_API_KEY": f"{GROQ}\udcff"},
        [],
        [("GROQ_API_KEY", "skipped", "contains characters that no key has")],
    ),
    (
        {"GROQ_API_KEY": GROQ, "GROQ_API_KEY_3": GROQ},
        ["GROQ_API_KEY"],
        [("GROQ_API_KEY_3", "skipped", "contains the same key as GROQ_API_KEY")],
    ),
    # only a warning: another service's key, an unknown prefix, a part of a key
    (
        {"GROQ_API_KEY": RESEND},
        ["GROQ_API_KEY"],
        [
            (
                "GROQ_API_KEY",
                "warned",
                "does not start with gsk_ as keys of this service do; it looks like a key of Re",
            )
        ],
    ),
    (
        {"GROQ_API_KEY": "k" + GROQ[4:]},
        ["GROQ_API_KEY"],
        [("GROQ_API_KEY", "warned", "does not start with gsk_ as keys of this service do.")],
    ),
    (
        {"GROQ_API_KEY": GROQ[:20]},
        ["GROQ_API_KEY"],
        [("GROQ_API_KEY", "warned", "has an unusual length")],
    ),
    (
        {"GROQ_API_KEY": GROQ + "x" * (120 - len(GROQ))},
        ["GROQ_API_KEY"],
        [],
    ),  # the longest usual key
    (
        {"GROQ_API_KEY": GROQ + "x" * (121 - len(GROQ))},
        ["GROQ_API_KEY"],
        [("GROQ_API_KEY", "warned", "has an unusual")],
    ),
    # the first key with a number
    (
        {"GROQ_API_KEY_1": GROQ},
        ["GROQ_API_KEY_1"],
        [("GROQ_API_KEY_1", "warned", "is taken as the first key")],
    ),
    (
        {"GROQ_API_KEY": "", "GROQ_API_KEY_1": GROQ},
        ["GROQ_API_KEY_1"],
        [("GROQ_API_KEY_1", "warned", "is taken as the first key")],
    ),
    (
        {"GROQ_API_KEY": GROQ, "GROQ_API_KEY_1": GROQ_2},
        ["GROQ_API_KEY"],
        [("GROQ_API_KEY_1", "skipped", "is another name of GROQ_API_KEY, which is set")],
    ),
    # names without a meaning
    (
        {"GROQ_API_KEY_11": GROQ},
        [],
        [("GROQ_API_KEY_11", "skipped", "is beyond the 10 keys of a service")],
    ),
    ({"GROQ_API_KEY_0": GROQ}, [], [("GROQ_API_KEY_0", "skipped", "is not the name of a key")]),
    ({"GROQ_API_KEY_02": GROQ}, [], [("GROQ_API_KEY_02", "skipped", "is not the name of a key")]),
    ({"GROQ_API_KEYS": GROQ}, [], [("GROQ_API_KEYS", "skipped", "is not the name of a key")]),
    (
        {"GROQ_API_KEY_12_FILE": "x"},
        [],
        [("GROQ_API_KEY_12_FILE", "skipped", "is beyond the 10 keys")],
    ),
    # files
    (
        {"GROQ_API_KEY_FILE": "/no/such"},
        [],
        [("GROQ_API_KEY_FILE", "skipped", "names a file that does not exist")],
    ),
    (
        {"GROQ_API_KEY_2_FILE": "/"},
        [],
        [("GROQ_API_KEY_2_FILE", "skipped", "does not name a plain file")],
    ),
    (
        {"GROQ_API_KEY": GROQ, "GROQ_API_KEY_FILE": "/no/such"},
        ["GROQ_API_KEY"],
        [("GROQ_API_KEY", "warned", "wins over GROQ_API_KEY_FILE")],
    ),
    # accounts
    (
        {"GROQ_ACCOUNT": "acme"},
        [],
        [("GROQ_ACCOUNT", "skipped", "has no effect: GROQ_API_KEY gives no usable key")],
    ),
    (
        {"GROQ_API_KEY": GROQ, "GROQ_ACCOUNT": "two words"},
        ["GROQ_API_KEY"],
        [("GROQ_ACCOUNT", "wrong", "is not an account name")],
    ),
    (
        {"GROQ_API_KEY": GROQ, "GROQ_ACCOUNT": GROQ},
        ["GROQ_API_KEY"],
        [("GROQ_ACCOUNT", "wrong", "is not an account name")],
    ),
]


@pytest.mark.parametrize(("environ", "variables", "reports"), TABLE)
def test_usable_keys_are_found_and_each_other_value_is_reported(
    environ: dict[str, str], variables: list[str], reports: list[tuple[str, str, str]]
) -> None:
    discovery = discover_keys("groq", environ)
    assert [key.variable for key in discovery.keys] == variables
    reported = facts(discovery)
    assert [fact[:2] for fact in reported] == [report[:2] for report in reports]
    for (_, _, sentence), (_, _, beginning) in zip(reported, reports, strict=True):
        assert sentence.startswith(beginning)


def test_accounts_and_senders_belong_to_the_key_of_their_number() -> None:
    discovery = discover_keys(
        "resend",
        {
            "RESEND_API_KEY": RESEND,
            "RESEND_ACCOUNT": "team-a",
            "RESEND_FROM_1": "Acme <mail@acme.example>",
            "RESEND_API_KEY_3": RESEND + "3",
            "RESEND_FROM_3": "mail@beta.example",
            "RESEND_API_KEY_4": RESEND + "4",
            "RESEND_FROM_4": "nobody",
        },
    )
    assert [(key.account, key.sender) for key in discovery.keys] == [
        ("team-a", "Acme <mail@acme.example>"),
        (None, "mail@beta.example"),
        (None, None),
    ]
    assert [fact[:2] for fact in facts(discovery)] == [("RESEND_FROM_4", "wrong")]


def test_a_worker_does_not_start_with_a_wrong_from_address() -> None:
    environ = {"RESEND_API_KEY": RESEND, "RESEND_FROM": "News news@example"}
    with pytest.raises(SettingsError, match=r"^RESEND_FROM is not a from address: write name@"):
        refuse_wrong_values([discover_keys("resend", environ)])
    refuse_wrong_values([discover_keys("resend", environ | {"RESEND_FROM": "news@example.com"})])
    refuse_wrong_values([discover_keys("resend", {"RESEND_API_KEY": "your-key-here"})])


def test_a_groq_key_has_no_sender() -> None:
    (key,) = discover_keys("groq", {"GROQ_API_KEY": GROQ, "GROQ_FROM": "a@b.example"}).keys
    assert key.sender is None


def test_an_unknown_service_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="service must be one of groq, resend"):
        discover_keys("other", {})


def test_a_key_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"\ufeff{GROQ}\r\n", encoding="utf-8")
    (key,) = discover_keys("groq", {"GROQ_API_KEY_5_FILE": str(tmp_path / "key")}).keys
    assert (key.variable, key.secret.get_secret_value()) == ("GROQ_API_KEY_5_FILE", GROQ)


def test_keys_are_read_afresh_from_dotenv_and_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"GROQ_API_KEY='{GROQ}'\n")
    assert [key.label for key in load_keys("groq").keys] == ["gsk_abc123..."]
    monkeypatch.setenv("GROQ_API_KEY_2", GROQ_2)
    assert [key.label for key in load_keys("groq").keys] == ["gsk_abc123...", "gsk_def456..."]


def test_one_service_with_a_key_is_enough_to_start() -> None:
    require_any_key(
        [discover_keys("groq", {}), discover_keys("resend", {"RESEND_API_KEY": RESEND})]
    )


def test_without_any_key_the_error_lists_the_variables_and_the_skipped_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        require_any_key(
            [discover_keys("groq", {"GROQ_API_KEY": "xxx"}), discover_keys("resend", {})]
        )
    looked, skipped = caught.value.sentences
    assert looked.startswith(
        "No usable API key was found, so no job could ever run: set at least one of GROQ_API_KEY, "
    )
    assert looked.endswith(
        "; RESEND_API_KEY, RESEND_API_KEY_2 … RESEND_API_KEY_10 (or …_FILE). There is no .env in "
        f"{tmp_path}."
    )
    assert skipped == "GROQ_API_KEY contains a placeholder, not a key."
    with pytest.raises(SettingsError, match="set at least one of the keys"):
        require_any_key([Discovery((), ())])


@pytest.mark.usefixtures("untraced")
@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"{base}{suffix}{end}"
                for base in ("RESEND_API_KEY", "RESEND_ACCOUNT", "RESEND_FROM")
                for suffix in ("", "_1", "_2", "_3", "_11", "S")
                for end in ("", "_FILE")
            ]
        ),
        st.one_of(
            st.text(alphabet=st.characters(exclude_characters="\0"), min_size=6),
            st.from_regex(r"re_[A-Za-z0-9]{9,60}", fullmatch=True),
            st.just("mail@b.example"),
        ),
    )
)
def test_a_value_is_never_shown(environ: dict[str, str]) -> None:
    marked = {
        name: value if value == "mail@b.example" else value[:3] + "Zq9QzCANARY" + value[3:]
        for name, value in environ.items()
    }
    discovery = discover_keys("resend", marked)
    shown = repr(discovery) + "".join(problem.sentence for problem in discovery.problems)
    for secret in {marked[name] for name in marked if name.startswith("RESEND_API_KEY")} - {
        "mail@b.example"
    }:
        assert secret not in shown
    for key in discovery.keys:
        assert isinstance(key, ApiKey)
        assert key.secret.get_secret_value().strip() in {value.strip() for value in marked.values()}


def test_an_address_or_account_of_no_key_has_no_effect() -> None:
    environ = {
        "RESEND_API_KEY": RESEND,
        "RESEND_FROM": "a@b.example",
        "RESEND_FROM_3": "c@d.example",
    }
    reported = [
        (problem.variable, problem.severity, problem.sentence)
        for problem in discover_keys("resend", environ).problems
    ]
    why = "RESEND_FROM_3 has no effect: RESEND_API_KEY_3 gives no usable key"
    assert [(report[0], report[1]) for report in reported] == [("RESEND_FROM_3", "skipped")]
    assert why in reported[0][2]

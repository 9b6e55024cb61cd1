import pytest

from agehpc.errors import DataError, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ann:pw@host/a/b: gone", "https://***@host/a/b: gone"),
        ("--data.shards=https://ann:p/w@host/a", "--data.shards=https://***@host/a"),
        ("https://ann:p@w@host:80/a", "https://***@host:80/a"),
        ("https://token@host", "https://***@host"),
        ("https://host:8000/a@b/c", "https://host:8000/a@b/c"),
        ("s3://bucket/a@b/c x@y", "s3://bucket/a@b/c x@y"),
        ("https://h/a?sig=S%2F&se=1: no", "https://h/a?***: no"),
        ("'https://h/a?sig=S' (https://h/b?t=1)", "'https://h/a?***' (https://h/b?***)"),
        ("is it https://host/a? Yes", "is it https://host/a? Yes"),
        ("pipe:curl -H 'Auth: x' https://h/{}", "pipe:***"),
        ("--data.shards=pipe:ssh a cat {}", "--data.shards=pipe:***"),
        ("pipe:***/manifest.json is damaged", "pipe:***/manifest.json is damaged"),
        ("broken pipe: the reader has gone", "broken pipe: the reader has gone"),
        ("shards/faces: what? mail a@b", "shards/faces: what? mail a@b"),
    ],
)
def test_credentials_are_masked(text: str, shown: str):
    assert redact(text) == shown
    assert redact(shown) == shown
    assert str(DataError(text)) == shown

"""From a published change to an answer and away again, through all three roles; embedded, and with everything real."""

from __future__ import annotations

import orjson
import pytest

from schemas.dead_letter import decode_dead_letter
from tests.services_local import eventually
from tests.stack import Stack, unique

MOST_S = 30_000


def test_a_published_document_is_found_with_all_that_was_published(stack: Stack) -> None:
    id = unique("doc")

    position = stack.publish(
        id,
        "A headrace brings the water of the stream to the mill.",
        title="Mills",
        metadata={"lang": "en", "year": 1883, "tags": ["water", "mill"], "open": True, "height": 2.5},
        version=7,
        event_time="2026-01-31T12:00:00Z",
    )

    hit = stack.hits("water for the mill", position)[id]
    assert hit["text"] == "A headrace brings the water of the stream to the mill."
    assert (hit["title"], hit["version"], hit["event_time"]) == ("Mills", 7, "2026-01-31T12:00:00.000Z")
    assert hit["metadata"] == {"lang": "en", "year": 1883, "tags": ["water", "mill"], "open": True, "height": 2.5}
    assert (hit["shard"], hit["source_offset"]) == (position.partition, position.offset)
    assert len(hit["trace_id"]) == 32
    document = stack.document(id)
    assert document is not None
    assert {name: document[name] for name in ("title", "text", "version", "trace_id")} == {
        name: hit[name] for name in ("title", "text", "version", "trace_id")
    }


def test_a_search_that_waits_for_a_write_always_sees_it(stack: Stack) -> None:
    missed = []
    for _ in range(30):
        id = unique("own")
        if id not in stack.hits(id, stack.publish(id, f"My own write {id}.")):
            missed.append(id)

    assert missed == []


def test_the_nearest_document_comes_first(stack: Stack) -> None:
    near, far = unique("near"), unique("far")
    positions = [
        stack.publish(near, "The quarterly tax return is due at the end of April."),
        stack.publish(far, "Penguins huddle together during the antarctic winter."),
    ]

    found = list(stack.hits("when is the tax return due", positions, k=1000))

    assert found.index(near) < found.index(far)


def test_a_word_is_found_by_itself_however_it_is_inflected_and_its_own_write_is_waited_for(stack: Stack) -> None:
    word = unique("zyzzyva")  # no model knows what it means
    other = stack.publish(unique("doc"), "Weevils of the tropics are small.")
    position = stack.publish(word, f"The {word} was digging tunnels under the {word}.")

    by_words = stack.search(f'"{word}" tunnel', [position, other], mode="keyword")
    both_ways = stack.search(f"{word} tunnels", [position, other])

    assert [hit["id"] for hit in by_words["hits"]] == [word]
    (hit,) = by_words["hits"]
    assert (hit["vector_score"], hit["keyword_score"] > 0) == (None, True)
    marked = {hit["text"][span["start"] : span["end"]] for span in hit["highlights"]}
    assert "tunnels" in marked
    assert (by_words["mode"], both_ways["mode"], both_ways["hits"][0]["id"]) == ("keyword", "hybrid", word)


@pytest.mark.parametrize("query", ['"', '"unbalanced', "(((", "a:b AND", "-", "*", "-only", "\\", "🙂", "'; DROP"])
def test_no_text_is_a_syntax_error(stack: Stack, query: str) -> None:
    for mode in ("keyword", "hybrid"):
        assert isinstance(stack.search(query, mode=mode)["hits"], list)


def test_an_answer_says_how_fresh_each_shard_is(stack: Stack) -> None:
    position = stack.publish(unique("doc"), "How fresh is this?")

    answer = stack.search("fresh", position)

    shards = answer["freshness"]["shards"]
    assert set(shards) == {"0", "1", "2", "3"}
    assert shards[str(position.partition)]["applied_offset"] >= position.offset
    assert 0 <= answer["freshness"]["staleness_ms"] < MOST_S


def test_an_update_replaces_the_old_text(stack: Stack) -> None:
    id, old, new = unique("doc"), unique("walrus"), unique("granite")
    stack.search(old, stack.publish(id, f"The {old} sleeps on the ice."))

    position = stack.publish(id, f"The {new} is quarried in Aberdeen.")

    answer = stack.search(old, position, k=1000)
    assert [hit["text"] for hit in answer["hits"] if hit["id"] == id] == [f"The {new} is quarried in Aberdeen."]
    assert not [hit for hit in answer["hits"] if old in hit["text"]]


def test_an_update_that_shortens_a_long_document_leaves_no_old_chunk(stack: Stack) -> None:
    id, old = unique("doc"), unique("walrus")
    long = " ".join(f"Sentence {number} is about the {old} on the ice floe." for number in range(200))
    stack.search(old, stack.publish(id, long))

    position = stack.publish(id, "Short.")

    answer = stack.search(f"Sentence 150 is about the {old}", position, k=1000)
    assert [hit["text"] for hit in answer["hits"] if hit["id"] == id] == ["Short."]


def test_an_edit_of_one_sentence_embeds_about_one_chunk(stack: Stack) -> None:
    id = unique("doc")
    # where cuts are depends on the text: another id in it, and a few edits in a hundred would change four chunks
    land = "the plain" if stack.settings.embedded_broker_id else "the hills"
    sentences = [f"Sentence {number} tells of the {number}th river of {land}." for number in range(400)]
    stack.search("river", stack.publish(id, " ".join(sentences)))
    embedded, calls = stack.model_chunks(), stack.model_calls()

    sentences[200] = f"This one of {land} was edited."
    stack.search("river", stack.publish(id, " ".join(sentences)))

    assert 1 <= stack.model_chunks() - embedded <= 3
    assert stack.model_calls() - calls == 1


@pytest.mark.parametrize("fields", [{}, {"version": 2}], ids=["null value", "with a version"])
def test_a_deleted_document_is_gone(stack: Stack, fields: dict[str, int]) -> None:
    id = unique("doc")
    stack.search("gone", stack.publish(id, "Here today, gone tomorrow.", version=1))

    position = stack.delete(id, **fields)

    assert id not in stack.hits("Here today, gone tomorrow.", position, k=1000)
    assert stack.document(id) is None
    status, body = stack.get(f"/documents/{id}")
    assert status == 404
    assert body["error"]["message"].startswith(f"no document {id!r}: it was deleted; its receipt: ")


def test_a_deleted_document_can_be_published_again(stack: Stack) -> None:
    id = unique("doc")
    stack.publish(id, "First life.")
    stack.delete(id)

    position = stack.publish(id, "Second life.")

    assert stack.hits("life", position, k=1000)[id]["text"] == "Second life."


def test_of_many_changes_in_one_go_the_last_one_wins(stack: Stack) -> None:
    id, deleted = unique("doc"), unique("doc")

    futures = [stack.publisher.upsert(id, f"Edition {number}.") for number in range(50)]
    futures += [stack.publisher.upsert(deleted, "Short life."), stack.publisher.delete(deleted)]
    positions = [future.result(30) for future in futures]

    hits = stack.hits("Edition", positions, k=1000)
    assert hits[id]["text"] == "Edition 49."
    assert deleted not in hits


def test_a_version_that_goes_back_is_ignored(stack: Stack) -> None:
    id = unique("doc")
    stack.publish(id, "The fifth version.", version=5)

    positions = [stack.publish(id, "The third version.", version=3), stack.delete(id, version=4)]

    hit = stack.hits("version", positions, k=1000)[id]
    assert (hit["text"], hit["version"]) == ("The fifth version.", 5)


def test_a_late_version_does_not_bring_a_deleted_document_back(stack: Stack) -> None:
    id = unique("doc")
    stack.publish(id, "Alive.", version=5)
    stack.delete(id, version=6)

    position = stack.publish(id, "A ghost.", version=5)

    assert id not in stack.hits("ghost", position, k=1000)
    assert stack.document(id) is None


def test_the_same_content_again_needs_no_model_call(stack: Stack) -> None:
    id = unique("doc")
    stack.search("same", stack.publish(id, f"The same content twice: {id}."))
    calls = stack.model_calls()

    position = stack.publish(id, f"The same content twice: {id}.")

    assert id in stack.hits("same content", position, k=1000)
    assert stack.model_calls() == calls


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "",
        " \n\t ",
        "日本語の文章を検索できますか。はい、できます。",
        "اللغة العربية تُكتب من اليمين إلى اليسار.",
        "Emoji 👩‍👩‍👧‍👦 and flags 🇳🇴, e\u0301 combined.",
        "NUL \x00 in the \x00 middle, \x1f\x7f and \ufeff \u2028 \ufffd beside it",
        "word" * 5000,
    ],
    ids=["one character", "empty", "white space", "CJK", "Arabic", "emoji", "NUL", "no spaces"],
)
def test_any_text_comes_back_as_it_was_published(stack: Stack, text: str) -> None:
    id = unique("doc")

    hits = stack.hits(text[:200].strip() or "nothing", stack.publish(id, text, title="Any"), k=1000)

    document = stack.document(id)
    assert document is not None
    assert document["text"] == text
    assert hits[id]["text"] in text


def test_ids_may_hold_any_characters(stack: Stack) -> None:
    ids = [unique(start) for start in ("a/b?c=d&e#f ", "日本 ", "%2F..\\ ", "'\";-- ")]

    positions = [stack.publish(id, f"The document {id}.") for id in ids]

    hits = stack.hits("document", positions, k=1000)
    for id in ids:
        assert id in hits
        document = stack.document(id)
        assert document is not None
        assert document["id"] == id


def test_a_megabyte_of_text_is_indexed_whole(stack: Stack) -> None:
    id, needle = unique("big"), unique("needle")
    period = "The mill turns, the water runs, and nobody counts the rounds of the wheel. "
    text = period * (2**20 // len(period)) + f"At the very end lies the {needle}."

    hit = stack.hits(f"the {needle} at the very end", stack.publish(id, text), k=1000, timeout_ms=60_000)[id]

    assert needle in hit["text"]
    document = stack.document(id)
    assert document is not None
    assert len(document["text"]) == len(text)


def test_a_poison_event_is_dead_lettered_as_it_came_and_its_neighbours_are_indexed(stack: Stack) -> None:
    before, id, after = unique("doc"), unique("poison"), unique("doc")
    headers: list[tuple[str, bytes | None]] = [("source", b"crm"), ("source", b"\xff\x00"), ("nothing", None)]
    first = stack.publish(before, "Before the poison.")
    poisons = [
        stack.produce(id.encode(), b'{"id": "' + id.encode() + b'", "text": 17', headers),
        stack.produce(id.encode(), b"\xde\xad\xbe\xef"),
        stack.produce(b"\xff" + id.encode(), orjson.dumps({"id": id, "text": "The key is not UTF-8."})),
        stack.produce(id.encode(), orjson.dumps({"id": "another", "text": "The key is not the id."})),
        stack.produce(id.encode(), orjson.dumps({"id": id, "text": "x", "surprise": 1})),
    ]

    hits = stack.hits("poison", [first, *poisons, stack.publish(after, "After the poison.")], k=1000)

    assert {before, after} <= set(hits)
    assert id not in hits
    letters = {
        (letter.partition, letter.offset): message
        for message in stack.dead_letters(len(poisons))
        if (letter := decode_dead_letter(message.headers() or []))
    }
    assert set(letters) == {(poison.partition, poison.offset) for poison in poisons}
    told = letters[poisons[0].partition, poisons[0].offset]
    assert (told.key(), told.value()) == (id.encode(), b'{"id": "' + id.encode() + b'", "text": 17')
    assert told.headers()[:3] == headers
    letter = decode_dead_letter(told.headers())
    assert (letter.topic, letter.stage, letter.error_class) == (
        stack.settings.changes_topic,
        "decode",
        "InvalidChange",
    )
    binary = letters[poisons[1].partition, poisons[1].offset]
    assert binary.value() == b"\xde\xad\xbe\xef"
    assert "id" in decode_dead_letter(letters[poisons[3].partition, poisons[3].offset].headers()).message
    assert "surprise" in decode_dead_letter(letters[poisons[4].partition, poisons[4].offset].headers()).message


def test_a_filter_narrows_the_answer(stack: Stack) -> None:
    group, field = unique("group"), unique("year")
    positions = [
        stack.publish(f"{group}-{year}", f"The vintage of {year}.", metadata={"group": group, field: year})
        for year in range(2000, 2010)
    ]

    def found(**terms: object) -> set[int]:
        hits = stack.hits("vintage", positions, k=1000, filter={"group": group, **terms})
        return {int(id.removeprefix(f"{group}-")) for id in hits}

    assert found() == set(range(2000, 2010))
    assert found(**{field: {"gte": 2003, "lt": 2005}}) == {2003, 2004}
    assert found(**{field: [2001, 2009, 2077]}) == {2001, 2009}
    assert found(**{"not": {field: {"gt": 2000}}}) == {2000}
    assert found(**{"or": [{field: 2002}, {field: {"gte": 2008}}]}) == {2002, 2008, 2009}


def test_a_filter_follows_an_update_of_the_metadata(stack: Stack) -> None:
    id, field = unique("doc"), unique("state")
    stack.publish(id, "A ticket.", metadata={field: "open"})

    position = stack.publish(id, "A ticket.", metadata={field: "closed"})

    assert id in stack.hits("ticket", position, filter={field: "closed"})
    assert id not in stack.hits("ticket", position, filter={field: "open"})


def test_a_search_by_vector_is_a_search_by_its_direction(stack: Stack) -> None:
    position = stack.publish(unique("doc"), "Vectors have directions.")
    stack.search("vectors", position)
    vector = [1.0] + [0.0] * 383

    def scores(**fields: object) -> dict[str, float]:
        status, answer = stack.post({"k": 1000, **fields})
        assert status == 200
        return {hit["id"]: round(hit["score"], 3) for hit in answer["hits"]}

    assert scores(vector=vector) == scores(vector=[7 * value for value in vector])


def test_offsets_that_never_come_are_an_error_after_the_timeout(stack: Stack) -> None:
    position = stack.publish(unique("doc"), "The last one.")
    stack.search("last", position)

    status, body = stack.post(
        {"query": "last", "min_offsets": {str(position.partition): position.offset + 1000}, "timeout_ms": 200}
    )

    assert status == 504
    assert f"shard {position.partition} did not reach min_offsets" in body["error"]["message"]


def test_an_answer_is_no_older_than_asked_for(stack: Stack) -> None:
    answer = stack.search("anything", max_staleness_ms=1000, timeout_ms=30_000)

    assert answer["freshness"]["staleness_ms"] < 2000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON"),
        (b"{not json", "JSON"),
        (b"[]", "object"),
        ({}, "give 'query' (text), 'vector', or both"),
        ({"query": ""}, "'query' is empty"),
        ({"query": " \n"}, "'query' is empty"),
        ({"query": "x" * 10_001}, "query"),
        ({"query": 5}, "query"),
        ({"query": "x", "vector": [1.0]}, "vector: has 1 dimensions, the index has 384"),
        ({"vector": [1.0, 2.0]}, "vector: has 2 dimensions, the index has 384"),
        ({"vector": [0.0] * 384}, "vector: must have at least one number other than 0"),
        ({"query": "x", "k": 0}, "k: "),
        ({"query": "x", "k": 1001}, "k: "),
        ({"query": "x", "k": 1.5}, "k: "),
        ({"query": "x", "surprise": 1}, "surprise: "),
        ({"query": "x", "filter": {"no such field": 1}}, "filter: no document has the field 'no such field'"),
        ({"query": "x", "filter": {"a": {"near": 1}}}, "filter.a.near: unknown operator"),
        ({"query": "x", "filter": {"a": None}}, "filter.a: null is not a value"),
        ({"query": "x", "min_offsets": {"4": 1}}, "min_offsets: there is no partition 4; there are 4"),
        ({"query": "x", "min_offsets": {"0": -1}}, "min_offsets"),
        ({"query": "x", "max_staleness_ms": -1}, "max_staleness_ms: "),
        ({"query": "x", "timeout_ms": 60_001}, "timeout_ms: "),
    ],
)
def test_a_wrong_search_is_refused_and_the_message_names_the_field(
    stack: Stack, body: bytes | dict[str, object], message: str
) -> None:
    stack.search("x", stack.publish("constant", "So that there is a document."))

    status, answer = stack.post(body)

    assert status == 400
    assert message in answer["error"]["message"]


def test_half_a_surrogate_pair_in_a_query_is_refused(stack: Stack) -> None:
    status, answer = stack.post(rb'{"query": "\ud800"}')

    assert status == 400
    assert "query" in answer["error"]["message"] or "JSON" in answer["error"]["message"]


def test_a_body_over_the_limit_is_refused_with_the_limit(stack: Stack) -> None:
    status, answer = stack.post(b'{"query": "' + b"x" * 2**20 + b'"}')

    assert status == 413
    assert "HEADRACE_MAX_REQUEST_BYTES" in answer["error"]["message"]


def test_what_does_not_exist_is_a_404_in_json(stack: Stack) -> None:
    assert stack.get("/documents/never-published")[0] == 404
    assert stack.get("/nowhere")[0] == 404
    assert stack.get("/nowhere")[1]["error"]["message"].startswith("GET /nowhere")
    assert stack.get("/search")[0] == 405
    assert stack.post({}, "/status")[0] == 405


def test_the_status_tells_every_shard_and_the_last_changes(stack: Stack) -> None:
    id = unique("doc")
    stack.search("status", stack.publish(id, "For the status."))

    eventually(lambda: any(change["id"] == id for change in stack.status()["recent"]))
    status = stack.status()
    assert [shard["state"] for shard in status["shards"]] == ["ready"] * 4
    assert status["services"] == {"redis": "ok"}
    assert stack.readyz("embed")[1]["services"] == {"kafka": "ok", "redis": "ok"}
    assert stack.readyz("index")[1]["services"] == {"kafka": "ok", "redis": "ok"}

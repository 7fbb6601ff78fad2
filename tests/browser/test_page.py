"""The page in headless Chromium, against all three roles on the embedded broker."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from app.local.broker import EmbeddedBroker
from tests.services_local import chromium_or_skip, eventually
from tests.stack import Stack, unique

pytestmark = pytest.mark.browser

WITHIN_MS = 15_000
_HEIGHTS_DIFFER = """chart => {
    const drawn = [...document.querySelectorAll(`${chart} path.line`)].map((line) => line.getAttribute("d")).join("");
    return new Set(drawn.match(/,[\\d.]+/g)).size > 1;
}"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, embedded_broker: EmbeddedBroker) -> Iterator[Stack]:
    """All roles, the index in two workers, ready; without Redis."""
    chromium_or_skip()
    folder = tmp_path_factory.mktemp("page")
    given = {"runtime": "hashing", "embedded_broker_id": "test", "session_timeout_ms": 25_000}
    with Stack(folder, embedded_broker.address, None, **given) as stack:
        stack.add_index("index-b", folder / "data-b")
        stack.start()
        eventually(lambda: len({shard["worker"] for shard in stack.status()["shards"]}) == 2, within_s=30)
        yield stack


@pytest.fixture
async def page(stack: Stack) -> AsyncIterator[Page]:
    """The page, loaded. Fails the test at its end if the page logged an error of its own."""
    problems: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        # the browser itself reports every answer of 400 and up, and every refused connection
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            problems.append(f"{message.type}: {message.text}")

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_or_skip())
        page = await browser.new_page()
        page.set_default_timeout(WITHIN_MS)
        page.on("console", hear)
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
        await page.goto(stack.url)
        yield page
        await browser.close()
    assert problems == []


async def published(stack: Stack, id: str, text: str, **fields: object) -> None:
    """Publish, and wait until it can be found; beside the event loop, which drives the browser."""
    await asyncio.to_thread(lambda: stack.search("x", stack.publish(id, text, **fields)))


async def test_a_typed_query_shows_the_hit_with_its_words_marked(stack: Stack, page: Page) -> None:
    id, word = unique("doc"), unique("turbine")
    await published(
        stack, id, f"The {word} turns <b>& turns</b>.", title="Machines", metadata={"lang": "en"}, version=3
    )

    await page.fill("#query", f"which {word} turns")

    hit = page.locator(f'#results [data-testid=hit][data-id="{id}"]')
    await expect(hit).to_be_visible(timeout=WITHIN_MS)
    assert await hit.locator("mark").all_inner_texts() == [word, "turns", "turns"]
    await expect(hit.locator(".chunk")).to_have_text(f"The {word} turns <b>& turns</b>.")
    await expect(hit).to_contain_text("Machines")
    await expect(hit).to_contain_text("version 3")
    await expect(page.locator("#answer")).to_contain_text("hit")
    await expect(page.locator("#partial")).to_be_hidden()


async def test_with_follow_changes_an_update_shows_by_itself(stack: Stack, page: Page) -> None:
    id, word = unique("doc"), unique("turbine")
    await published(stack, id, f"The {word} stands still.")
    await page.fill("#query", word)
    hit = page.locator(f'[data-testid=hit][data-id="{id}"]')
    await expect(hit.locator(".chunk")).to_have_text(f"The {word} stands still.", timeout=WITHIN_MS)
    changed = await hit.locator("time").first.get_attribute("datetime")

    await page.check("#live")
    await published(stack, id, f"The {word} turns again.")

    await expect(hit.locator(".chunk")).to_have_text(f"The {word} turns again.", timeout=WITHIN_MS)
    assert await hit.locator("time").first.get_attribute("datetime") > changed
    recent = page.locator(f'#recent [data-id="{id}"]').first
    await expect(recent).to_be_visible(timeout=WITHIN_MS)


async def test_a_hit_opens_the_whole_document(stack: Stack, page: Page) -> None:
    id, word = unique("doc/with ?"), unique("turbine")
    await published(stack, id, f"The {word} turns.", metadata={"lang": "en"})
    await page.fill("#query", word)

    await page.locator(f'[data-testid=hit][data-id="{id}"] button.open').click()

    await expect(page.locator("#document")).to_be_visible(timeout=WITHIN_MS)
    await expect(page.locator("#document .whole-text")).to_have_text(f"The {word} turns.")
    await expect(page.locator("#document mark")).to_have_text([word])


async def test_a_tag_filters_by_its_value(stack: Stack, page: Page) -> None:
    kept, other, word = unique("doc"), unique("doc"), unique("turbine")
    await published(stack, kept, f"The {word} of the north.", metadata={"side": "north"})
    await published(stack, other, f"The {word} of the south.", metadata={"side": "south"})
    await page.fill("#query", word)

    await page.locator(f'[data-testid=hit][data-id="{kept}"] button.tag').click()

    await expect(page.locator(f'[data-id="{other}"][data-testid=hit]')).to_have_count(0, timeout=WITHIN_MS)
    await expect(page.locator(f'[data-id="{kept}"][data-testid=hit]')).to_be_visible()
    await expect(page.locator("#filter")).to_have_value('{"side":"north"}')


async def test_the_switch_chooses_between_meaning_and_keywords_and_stays_in_the_address(
    stack: Stack, page: Page
) -> None:
    id, word = unique("doc"), unique("turbine")
    await published(stack, id, f"The {word} turns.")
    await page.fill("#query", word)
    hit = page.locator(f'[data-testid=hit][data-id="{id}"]')
    await expect(hit.locator(".found[data-list=keywords]")).to_have_text("keywords 1", timeout=WITHIN_MS)
    await expect(hit.locator(".found[data-list=meaning]")).to_have_count(1)

    await page.get_by_label("Keywords", exact=True).check()

    await expect(page.locator("[data-testid=hit]")).to_have_count(1, timeout=WITHIN_MS)
    await expect(hit).to_be_visible()
    await expect(page).to_have_url(re.compile("mode=keyword"))
    await page.reload()
    await expect(page.get_by_label("Keywords", exact=True)).to_be_checked()
    await expect(page.locator("[data-testid=hit]")).to_have_count(1, timeout=WITHIN_MS)
    await page.get_by_label("Keywords", exact=True).press("ArrowLeft")
    await expect(page).to_have_url(re.compile("mode=vector"))


async def test_further_passages_of_a_document_unfold(stack: Stack, page: Page) -> None:
    id, word = unique("doc"), unique("turbine")
    await published(stack, id, f"The {word} turns with the stream day and night. " * 120)
    await page.fill("#query", word)
    more = page.locator(f'[data-testid=hit][data-id="{id}"] details.more')

    await more.locator("summary").click(timeout=WITHIN_MS)

    await expect(more.locator(".passage mark").first).to_have_text(word)
    await expect(page.locator("#document")).to_be_hidden()  # unfolding does not open the document


async def test_the_panel_shows_recall_and_memory_of_every_shard(stack: Stack, page: Page) -> None:
    rows = page.locator("#health-rows tr")

    await expect(rows).to_have_count(4, timeout=WITHIN_MS)
    await expect(page.locator("#memory")).to_contain_text(re.compile("bytes|iB"), timeout=WITHIN_MS)
    await expect(page.locator("#health-error")).to_be_hidden()


async def test_the_panel_shows_every_shard_ready_and_fresh(stack: Stack, page: Page) -> None:
    rows = page.locator("#shards tr[data-shard]")

    await expect(rows).to_have_count(4, timeout=WITHIN_MS)
    await expect(page.locator('#shards tr[data-shard][data-state="ready"]')).to_have_count(4, timeout=WITHIN_MS)
    assert await rows.evaluate_all("rows => rows.map((row) => row.dataset.shard)") == ["0", "1", "2", "3"]
    await expect(page.locator("#staleness")).to_contain_text("s", timeout=WITHIN_MS)
    await expect(page.locator("#redis")).to_have_text("not configured")


async def test_the_charts_move_when_documents_come(stack: Stack, page: Page) -> None:
    await published(stack, unique("doc"), "The first one.")
    about, steps = page.locator("#latency-about"), page.locator("#step-rows tr")
    await expect(steps).to_have_count(8, timeout=WITHIN_MS)
    await expect(page.locator("#steps-bar rect")).to_have_count(8)
    await expect(page.locator("#latency-p99")).to_contain_text(re.compile(r"\d m?s"))

    texts = {unique("doc"): f"Number {number} of many." for number in range(50)}
    await asyncio.to_thread(lambda: stack.search("x", stack.publish_all(texts)))

    # by and by: a look may fall between two transactions
    await expect(about).to_have_text(re.compile(r"last (5[1-9]|[6-9]\d|\d{3}) document"), timeout=WITHIN_MS)
    await expect(page.locator("#documents-per-s")).to_have_text(re.compile("[1-9]"), timeout=WITHIN_MS)
    await page.wait_for_function(_HEIGHTS_DIFFER, arg="#rate-chart", timeout=WITHIN_MS)
    await expect(page.locator("#latency-chart path.line")).not_to_have_count(0)
    await expect(page.locator("#objective-verdict")).not_to_have_text("No document in the last hour")
    await expect(page.locator("#met")).to_contain_text("%")


async def test_without_redis_the_page_says_why_it_shows_no_embed_workers(page: Page) -> None:
    await expect(page.locator("#workers-none")).to_contain_text("no Redis", timeout=WITHIN_MS)
    await expect(page.locator("#workers")).to_be_hidden()


async def test_a_filter_that_is_wrong_is_explained(stack: Stack, page: Page) -> None:
    await published(stack, unique("doc"), "So that there is a document.")
    await page.fill("#query", "anything")
    await page.fill("#filter", '{"no such field": 1}')

    await expect(page.locator("#filter-error")).to_contain_text("no document has the field", timeout=WITHIN_MS)
    await expect(page.locator("#results > *")).to_have_count(0)


async def test_while_an_index_worker_does_not_answer_the_answer_is_called_partial(stack: Stack, page: Page) -> None:
    word = unique("turbine")
    texts = {unique("doc"): f"The {word} turns, number {number}." for number in range(20)}
    await asyncio.to_thread(lambda: stack.search(word, stack.publish_all(texts)))

    stack.send("index-b", signal.SIGSTOP)  # for less than its session: no rebalance comes in between
    await page.fill("#query", word)

    await expect(page.locator("#partial")).to_contain_text("Partial answer: 2 shards are missing", timeout=WITHIN_MS)
    await expect(page.locator("#partial li")).to_have_count(2)
    assert 0 < await page.locator("[data-testid=hit]").count() < 20
    await expect(page.locator('#shards tr[data-shard][data-state="ready"]')).to_have_count(2, timeout=WITHIN_MS)
    await expect(page.locator("#verdict")).to_contain_text("2 of 4 shards not ready")

    stack.send("index-b", signal.SIGCONT)
    await expect(page.locator('#shards tr[data-shard][data-state="ready"]')).to_have_count(4, timeout=WITHIN_MS)
    await page.select_option("#k", "50")
    await expect(page.locator("#partial")).to_be_hidden(timeout=WITHIN_MS)
    await expect(page.locator(f'[data-testid=hit] mark:text-is("{word}")')).to_have_count(20, timeout=WITHIN_MS)

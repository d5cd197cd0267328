"""The stream of messages in a real browser: what is asked while it is being closed is answered."""

from tests.browser.test_reading import opened

LATE = """
const own = window.fetch;
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
window.closing = 0;
window.fetch = async (...given) => {
  const response = await own(...given);
  if (!response.url.includes('queue/data')) return response;
  const late = new TransformStream({
    async transform(chunk, out) {
      const text = new TextDecoder().decode(chunk);
      const end = text.indexOf('data: {"msg":"close_stream"');
      if (end < 0) return out.enqueue(chunk);
      out.enqueue(new TextEncoder().encode(text.slice(0, end)));
      window.closing++;
      await pause(1500);
      window.closing--;
      out.enqueue(new TextEncoder().encode(text.slice(end)));
    },
  });
  return new Response(response.body.pipeThrough(late), response);
};
"""
"""The word that the stream ends comes late, as it may over a busy network."""


def test_a_click_while_the_stream_is_being_closed_is_answered(window, site):
    window.add_init_script(LATE)
    opened(window, site.url)
    note = window.get_by_label("Clinical note")
    note.fill("Fever and cough.")
    note.blur()
    window.wait_for_function("window.closing > 0")
    with window.expect_response("**/queue/join*"):
        window.locator("#predict").click()
    assert window.evaluate("window.closing") > 0
    window.wait_for_selector("#answer .cxr-bar")
    window.wait_for_selector(".cxr-word")

// Run once when the page has loaded; events call the functions by `page.NAME`.
() => {
  // Gradio asks for an event (queue/join), and hears of it by a stream that ends once nothing is
  // left to hear of. It opens another where it knows that the last one has ended: one that the server
  // has ended, but whose end is still on its way, would never say what became of the event. So the
  // answer to the request waits until the stream has said something of the event, or has ended.
  const plain = window.fetch;
  let stream = {heard: new Set(), ended: true, tell: []};
  const tell = (own) => own.tell.forEach((each) => each());
  const follow = async (reader, own) => {
    const decoder = new TextDecoder();
    let text = '';
    for (let part; !(part = await reader.read()).done;) {
      text = text.slice(-100) + decoder.decode(part.value, {stream: true});
      for (const [, event] of text.matchAll(/"event_id":"(\w+)"/g)) own.heard.add(event);
      tell(own);
    }
  };
  const end = (own) => setTimeout(() => { // Gradio has read it to its end by then
    own.ended = true;
    tell(own);
  }, 100);
  const settled = (own, event) => new Promise((done) => {
    own.tell.push(() => (own.ended || own.heard.has(event)) && done());
    tell(own);
  });
  window.fetch = async (...given) => {
    const address = given[0]?.url ?? String(given[0]);
    const own = {heard: new Set(), ended: false, tell: []};
    if (address.includes('/queue/data')) stream = own;
    const response = await plain(...given).catch((error) => {
      end(own);
      throw error;
    });
    if (address.includes('/queue/data')) {
      const [theirs, ours] = response.body.tee();
      follow(ours.getReader(), own).catch(() => {}).then(() => end(own));
      return new Response(theirs, response);
    }
    if (address.includes('/queue/join') && response.ok) {
      const {event_id: event} = await response.clone().json();
      if (event) await settled(stream, event);
    }
    return response;
  };
  const answer = () => document.getElementById('answer')?.classList;
  let answered; // the inputs of the answer on show, or of the one that is on its way
  window.page = {
    // An upload that ends after the click changes its field, but is part of what is answered.
    stale: (...inputs) => {
      answer()?.toggle('stale', JSON.stringify(inputs) !== answered);
      return [];
    },
    fresh: (history, ...inputs) => {
      answered = JSON.stringify(inputs);
      answer()?.remove('stale');
      return [history, ...inputs];
    },
    look: () => {
      const fault = document.querySelector('.fault');
      const target = fault || document.getElementById('answered');
      target?.scrollIntoView({behavior: 'smooth', block: fault ? 'center' : 'start'});
      return [];
    },
    open: (fault) => {
      if (fault) return [];
      const reading = [...document.querySelectorAll('button[role=tab]')].find(
        (tab) => tab.textContent.trim() === 'Read one study');
      reading?.click();
      document.getElementById('predict')?.click();
      return [];
    },
    zoom: (factor) => {
      document.getElementById('image-preview')?.style.setProperty('--zoom', factor);
      return [];
    },
  };
  const show = () => {
    if (document.querySelector('#header h1')) document.body.dataset.drawn = '';
    else requestAnimationFrame(show);
  };
  show();
  // Brings up the keypad of numbers on a phone.
  document.querySelectorAll('.decimal input, .decimal textarea').forEach(
    (field) => field.setAttribute('inputmode', 'decimal'));
}

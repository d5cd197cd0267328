// Run once when the page has loaded; events call the functions by `page.NAME`.
() => {
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

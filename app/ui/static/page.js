// Run once when the page has loaded; events call the functions by `page.NAME`.
() => {
  const answer = () => document.getElementById('answer')?.classList;
  let opening = false; // the fields change since an image of the inbox fills them
  window.page = {
    stale: (...values) => {
      if (!opening) answer()?.add('stale');
      return [];
    },
    fresh: (...values) => {
      answer()?.remove('stale');
      return values;
    },
    look: () => {
      opening = false;
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
      opening = true;
      document.getElementById('predict')?.click();
      return [];
    },
    zoom: (factor) => {
      document.getElementById('image-preview')?.style.setProperty('--zoom', factor);
      return [];
    },
  };
  // Brings up the keypad of numbers on a phone.
  document.querySelectorAll('.decimal input, .decimal textarea').forEach(
    (field) => field.setAttribute('inputmode', 'decimal'));
}

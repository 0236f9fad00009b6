element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-verb]');
  if (button) trigger('click', { verb: button.dataset.verb, id: button.dataset.id });
});

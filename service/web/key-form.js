// The form for an API key, which the tab stores: #key-section of a page.

import { key, storeKey } from "./api.js";
import { byId } from "./elements.js";

export function showKeyForm(message) {
  byId("key-message").textContent = message;
  byId("key-section").hidden = false;
  byId("key-forget").hidden = !key();
}

// Connects the form; `onUse` is called after each new key.
export function wireKeyForm(onUse) {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = byId("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(typed)) {
      showKeyForm("A key consists of printable ASCII characters without spaces.");
      return;
    }
    storeKey(typed);
    byId("key").value = "";
    byId("key-section").hidden = true;
    onUse();
  });
  byId("key-forget").addEventListener("click", () => {
    storeKey("");
    showKeyForm("The key is deleted.");
    byId("key").focus();
  });
}

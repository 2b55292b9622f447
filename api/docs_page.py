"""`/docs`: the OpenAPI document as a page. The page is empty until it is given the token.

No script of others: it holds the operator's token while it is open.
"""

import base64
from hashlib import sha256

_SCRIPT = """
const form = document.forms[0], out = document.querySelector("main");
function put(parent, tag, text) {
  const node = document.createElement(tag);
  node.textContent = text;
  parent.append(node);
  return node;
}
form.onsubmit = async (event) => {
  event.preventDefault();
  out.replaceChildren();
  const answer = await fetch("/api/v1/openapi.json",
    {headers: {Authorization: "Bearer " + form.token.value}});
  const spec = await answer.json();
  if (!answer.ok) { put(out, "p", spec.title + ": " + spec.detail); return; }
  for (const [path, methods] of Object.entries(spec.paths))
    for (const [method, operation] of Object.entries(methods)) {
      put(out, "h2", method.toUpperCase() + " " + path);
      put(out, "p", operation.summary + ". " + (operation.description || ""));
      const list = put(out, "ul", "");
      for (const one of operation.parameters || [])
        put(list, "li", `${one.name} (${one.in}): ${one.description || ""}`);
      for (const [status, one] of Object.entries(operation.responses))
        put(list, "li", `${status}: ${one.description}`);
    }
  put(out, "h2", "Shapes");
  for (const [name, shape] of Object.entries(spec.components.schemas)) {
    const details = put(out, "details", "");
    put(details, "summary", name);
    put(details, "pre", JSON.stringify(shape, null, 2));
  }
};
"""
_STYLE = (
    "body{font:16px sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}h2{font-size:1rem}"
)
PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Meterstream API</title><style>{_STYLE}</style>
<h1>Meterstream API</h1>
<form><label>Token <input name="token" type="password" autocomplete="off" required></label>
<button>Show</button></form>
<main></main>
<script>{_SCRIPT}</script>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; "
    f"connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)

"""Web: the frame that every self-contained page of explanations has."""

from html import escape

SYNTHETIC = "SYNTHETIC: made-up data; nothing here is a real patient."
STYLE = """
:root{color-scheme:light}
body{font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1b1f24;
  background:#fff;max-width:1180px;margin:0 auto;padding:16px}
h1{font-size:1.5rem;margin:.2em 0}
h2{font-size:1.15rem;margin:1.4em 0 .4em}
.notice{border-left:4px solid #c65d00;background:#f4f5f7;padding:7px 12px;margin:0 0 6px;
  font-weight:550}
.synthetic{border-left-color:#7b3fa0}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:20px}
.parts{display:flex;flex-wrap:wrap;gap:20px;align-items:flex-start}
.parts>article{flex:1 1 340px;max-width:100%}
.wide{overflow-x:auto}
article{border:1px solid #d9dde3;border-radius:8px;padding:12px}
article h3{font-size:1rem;margin:0 0 8px;overflow-wrap:anywhere}
article.wrong{border-color:#c65d00;border-width:2px}
img{max-width:100%;height:auto;display:block;margin:0 auto 10px;border-radius:4px}
table.figures{border-collapse:collapse;font-variant-numeric:tabular-nums}
table.figures th,table.figures td{text-align:left;padding:3px 14px 3px 0}
.quiet{color:#4a5260;font-size:.92em}
"""


def whole_page(title: str, style: str, body: str) -> str:
    """A page that loads nothing from anywhere.

    Args:
        title: plain text.
        style: CSS.
        body: HTML, what comes from outside already escaped.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f"<h1>{escape(title)}</h1>{body}</body></html>"
    )

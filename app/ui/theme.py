"""Style: the page's own CSS; system fonts, nothing loaded from anywhere, light and dark."""

import gradio as gr
from gradio.themes.utils.fonts import Font

from app.ui import compare, health, viewer, worklist
from cxr_mm.explain.html import CSS as BARS

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")

CSS = (
    BARS
    + viewer.CSS
    + worklist.CSS
    + compare.CSS
    + health.CSS
    + """
.gradio-container{width:100% !important;max-width:1320px !important;margin:0 auto !important;
  padding:8px clamp(0px,2vw,16px) !important}
.gradio-container .html-container{padding:0 2px !important}
.gradio-container [data-testid="block-info"]~*{color:var(--body-text-color)}
.part{gap:8px !important}
.examples{order:-1;min-height:92px}
.label-wrap>span{text-align:left}
.image{min-height:535px}
.image.asks-view{min-height:631px}
#shares{min-height:120px}
.gradio-container .or{color:var(--body-text-color) !important}
#clinical .form{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,176px),1fr));
  gap:0;background:var(--block-background-fill)}
#clinical .form>.block{display:flex;flex-direction:column;padding:8px 10px}
#clinical .form label,#clinical .form .container{display:flex;flex-direction:column;flex:1 0 auto;
  height:auto}
#clinical .form .input-container,#clinical .form .container>.wrap{margin-top:auto;flex:none;
  height:auto}
#clinical .wrap-inner,#clinical .secondary-wrap{flex-wrap:nowrap}
#clinical input{min-width:0}
#clinical [role=combobox]{height:auto}
#notice{position:sticky;top:0;z-index:60;background:var(--body-background-fill)}
.notice{border-left:4px solid #c65d00;background:var(--background-fill-secondary);
  color:var(--body-text-color);padding:6px 12px;border-radius:4px;font-weight:550}
.gradio-container,.gradio-container main,.gradio-container .wrap{overflow:visible}
.quiet{color:var(--body-text-color);opacity:.8;font-size:.9em;margin:2px 0}
.fault{border-left:4px solid #b3261e;background:var(--background-fill-secondary);
  color:var(--body-text-color);padding:7px 12px;border-radius:4px;font-weight:550}
.warn{border:1px solid #c65d00;border-radius:6px;padding:8px 12px;margin:0 0 14px;
  background:var(--background-fill-secondary)}
.warn ul{margin:4px 0 0;padding-left:20px}
.warn li{list-style:disc}
.chips{display:flex;flex-wrap:wrap;gap:6px;margin-top:4px}
.chip{border:1px solid var(--border-color-primary);border-radius:999px;padding:1px 10px;
  font-size:.85em}
.chip.on{border-color:#3b6fb6;border-width:2px}
.chip.off{border-style:dashed;border-color:var(--body-text-color);opacity:.75}
.stale{outline:2px dashed #c65d00;outline-offset:6px;border-radius:4px}
.stale::before{content:"The inputs have changed since this answer.";display:block;
  font-weight:600;margin-bottom:8px}
#answer{min-height:170px}
h2.step{scroll-margin-top:104px;font-size:1.02rem;font-weight:650;margin:6px 0 2px}
#overlay img{object-fit:contain}
.cxr-moved{border:0 !important;border-collapse:collapse;font-variant-numeric:tabular-nums;
  margin:6px 0}
.cxr-moved tr,.cxr-moved th,.cxr-moved td{border:0 !important;text-align:left;
  padding:2px 20px 2px 0 !important}
#header nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0;padding:0;list-style:none}
mark{background:#ffd54d;color:#1b1f24;padding:0 2px;border-radius:2px}
@media (max-width:640px){
  .fillable{padding:4px 10px !important}
  .notice{font-size:.82rem;line-height:1.3;padding:4px 8px}
  .part{gap:8px !important}
#clinical{gap:10px !important}
#clinical>*{display:flex;flex-direction:column;justify-content:space-between}
#clinical .wrap,#clinical label{justify-content:space-between;height:100%}
.gradio-container [data-testid="block-info"]+*{color:var(--body-text-color)}
#header h1{font-size:1.2rem}
  #answer{min-height:120px}
}
"""
)


def theme() -> gr.themes.Default:
    """Gradio's default with system fonts, and print and buttons that can be read (WCAG AA)."""
    return gr.themes.Default(
        primary_hue="blue", font=[Font(f) for f in FONT], font_mono=[Font(f) for f in MONO]
    ).set(
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


STALE = "(...values) => {document.getElementById('answer')?.classList.add('stale'); return []}"
FRESH = (
    "(...values) => {document.getElementById('answer')?.classList.remove('stale'); return values}"
)
LOOK = """() => {
  const fault = document.querySelector('.fault');
  const place = fault || document.getElementById('answered');
  place?.scrollIntoView({behavior: 'smooth', block: fault ? 'center' : 'start'});
  return [];
}"""

# Brings up the keypad of numbers on a phone.
ON_LOAD = """() => document.querySelectorAll('.decimal input, .decimal textarea').forEach(
  field => field.setAttribute('inputmode', 'decimal'))"""

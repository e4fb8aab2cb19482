"""The look that all demo pages share: paper, ink and one accent, as on the contact sheets of `visionzoo retrieve`."""

from __future__ import annotations

from gradio import themes

_SANS = ("system-ui", "Segoe UI", "Helvetica Neue", "sans-serif")


def theme() -> themes.Base:
    """Warm greys, a brick red accent, square corners, the system's own fonts (nothing is loaded from other hosts)."""
    shades = "#fbf1ee #f6ddd6 #ebb8ab #dd8c79 #cb5f47 #b3391f #9c2f18 #7f2613 #631e10 #4a170d #300e07"
    brick = themes.Color(*shades.split(), name="brick")
    fonts = {"font": _SANS, "font_mono": ("ui-monospace", "monospace")}
    return themes.Base(
        primary_hue=brick, secondary_hue=brick, neutral_hue=themes.colors.stone, radius_size="sm", **fonts
    ).set(
        body_background_fill="#f7f7f5",
        body_background_fill_dark="#191917",
        body_text_color="#1d1d1b",
        body_text_color_subdued="#5c5c57",
        body_text_color_subdued_dark="#b4b3ac",
        border_color_primary="#d9d8d2",
        border_color_primary_dark="#45443f",
        border_color_accent_dark="#dd8c79",
        color_accent="*primary_500",
        link_text_color="*primary_600",
        link_text_color_dark="*primary_300",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_padding="0px",
        block_label_background_fill="*body_background_fill",
        block_label_background_fill_dark="*body_background_fill",
        block_label_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        input_background_fill="white",
        input_background_fill_dark="#242422",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="#5b5a54",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_selected_dark="#3a2621",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="*border_color_primary",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_hover_dark="*primary_400",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_border_width="1px",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#5b5a54",
        button_large_text_weight="600",
        button_large_text_size="*text_md",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
    )


CSS = r"""
.gradio-container { max-width: 1400px !important; margin: 0 auto !important; padding: 0 !important;
                    --vz-accent: var(--primary-500); --vz-wash: rgba(0, 0, 0, .05); }
.dark .gradio-container, .gradio-container.dark { --vz-accent: #e58a75; --vz-wash: rgba(255, 255, 255, .08); }
.gradio-container, .gradio-container main { width: 100% !important; }
.gradio-container main { padding: 1.75rem clamp(1rem, 3vw, 2.5rem) 1rem !important; }
.gradio-container .form { background: none; border: 0; box-shadow: none; gap: 1.1rem; overflow: visible; }
.gradio-container .form > .block { background: none; }
.gradio-container footer { display: none !important; }
.gradio-container :is(a, button, input, select, textarea, summary, [tabindex]):focus-visible {
  outline: 2px solid var(--vz-accent) !important; outline-offset: 2px; }
.gradio-container input[type=range]:focus-visible { outline-offset: 6px; }

.gradio-container .tab-container button.selected { color: var(--vz-accent); }
.dark input[type=range]::-webkit-slider-runnable-track {
  background: linear-gradient(to right, var(--vz-accent) var(--range_progress), #55544e var(--range_progress)); }
.gradio-container .icon-button-wrapper { background: var(--body-background-fill); }

.vz-head h1 { font-size: 1.55rem; line-height: 1.2; font-weight: 650; letter-spacing: -.012em; margin: 0; }
.vz-head p { margin: .35rem 0 .4rem; color: var(--body-text-color-subdued); max-width: 60rem; }
.vz-head p.vz-caution { border-left: 3px solid var(--vz-accent); padding-left: .8rem; margin: .6rem 0 .4rem;
                        color: var(--body-text-color); }
.vz-columns { gap: 2.5rem !important; align-items: flex-start; }
.vz-inputs { gap: 1.1rem !important; }
.vz-results { gap: 1rem !important; min-height: 27rem; }
.vz-results > .column { gap: 1rem !important; }
.vz-buttons { gap: .7rem !important; flex-wrap: nowrap; }
.vz-buttons button:disabled { opacity: .45; }
.vz-downloads .prose { display: flex; flex-wrap: wrap; gap: .7rem; }
.gradio-container a.vz-download { display: inline-block; padding: .6rem 1rem; margin: 0; border-radius: 4px;
  border: 1px solid var(--input-border-color); font-weight: 600; color: var(--body-text-color); text-decoration: none; }
.gradio-container a.vz-download:hover { border-color: var(--vz-accent); color: var(--vz-accent); }

.vz-upload { gap: .35rem !important; }
.vz-upload > .block:not(:has(.vz-accepts)) { border: 1px dashed var(--input-border-color) !important; border-radius: 4px;
                      background: var(--vz-wash) !important; }
.vz-upload .vz-accepts p { margin: 0; font-size: var(--text-sm); line-height: 1.4;
                           color: var(--body-text-color-subdued); }
.vz-refused:has(.vz-problem) { padding: .25rem 0 .5rem; }
.vz-refused .vz-problem { margin: 0; }
.vz-upload .file-preview-holder { padding: 2.2rem .4rem .4rem; }
.vz-upload .file-preview .download { min-width: 5.5rem; }
.vz-upload button > .wrap { color: var(--body-text-color-subdued); font-size: 0; }
.vz-upload button > .wrap > :is(p, .or) { display: none; }
.vz-upload button > .wrap::after { white-space: pre; text-align: center; font-size: var(--text-md); line-height: 1.5;
                                   content: "Drop an image here\A or click to choose one"; }
.vz-upload.vz-takes-video button > .wrap::after { content: "Drop a video here\A or click to choose one"; }
.vz-upload.vz-takes-scene button > .wrap::after { content: "Drop a scene here\A or click to choose one"; }
.vz-upload.vz-takes-images button > .wrap::after { content: "Drop images here\A or click to choose them"; }

.block.hide-container:is(:has(.vz-names), :has(.prose > style:only-child)) { display: none !important; }
.vz-samples .label, .vz-samples .label svg { color: var(--body-text-color); }
.vz-samples .gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(46px, 1fr)); gap: 6px; }
.vz-samples.vz-few .gallery { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.vz-samples .gallery-item { position: relative; aspect-ratio: 1; width: auto; border: 0; border-radius: 3px; }
.vz-samples.vz-few .gallery-item { aspect-ratio: 4 / 3; }
.vz-samples .gallery-item .container { display: block; position: absolute; inset: 0; width: 100%; height: 100%;
                                       max-width: none; max-height: none; border: 0; }
.vz-samples .gallery-item img { width: 100%; height: 100%; max-width: none; object-fit: cover; }
.vz-samples .gallery-item:is(:hover, :focus-visible) { outline: 2px solid var(--vz-accent); outline-offset: 1px; }

.vz-empty { border: 1px dashed var(--border-color-primary); border-radius: 4px; padding: 4.5rem 1.5rem;
            text-align: center; color: var(--body-text-color-subdued); }
.vz-hint { margin: 0; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.vz-problem { border-left: 3px solid var(--vz-accent); background: var(--vz-wash); padding: .55rem .8rem;
              margin-bottom: 1rem; overflow-wrap: anywhere; line-height: 1.45; color: var(--body-text-color); }
.vz-problem.vz-calm { border-color: var(--body-text-color-subdued); }
.vz-status { scroll-margin-top: 1rem; overflow: visible !important; }
.vz-progress { border: 1px solid var(--border-color-primary); border-radius: 4px; padding: 1.2rem 1.3rem 1.35rem; }
.vz-progress span { display: block; margin-bottom: .6rem; font-variant-numeric: tabular-nums; }
.vz-progress progress { display: block; width: 100%; height: 8px; accent-color: var(--vz-accent); border: 0;
                        border-radius: 4px; overflow: hidden; background: var(--vz-wash); }
.vz-progress progress::-webkit-progress-bar { background: var(--vz-wash); }
.vz-progress progress::-webkit-progress-value { background: var(--vz-accent); }
.vz-progress progress::-moz-progress-bar { background: var(--vz-accent); }
.vz-done { border-top: 2px solid var(--body-text-color); padding: .6rem 0 0; }
.vz-done h2 { font-size: 1.05rem; font-weight: 650; margin: 0; }
.vz-done :is(span, p) { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vz-done p { margin: .25rem 0 0; font-size: var(--text-sm); }
.vz-fold { margin-top: 1.5rem; }
.vz-about { border-top: 1px solid var(--border-color-primary); padding: .9rem 0; }
.vz-about > summary { cursor: pointer; font-weight: 600; color: var(--body-text-color); width: fit-content; }
.vz-card { display: grid; grid-template-columns: minmax(8rem, max-content) minmax(0, 1fr); gap: .35rem 1.6rem;
           margin: 1rem 0; font-size: var(--text-sm); line-height: 1.5; max-width: 62rem; }
.vz-card dt { color: var(--body-text-color-subdued); }
.vz-card dd { margin: 0; color: var(--body-text-color); overflow-wrap: anywhere; }
.vz-note { columns: 21rem 3; column-gap: 2.5rem; font-size: var(--text-sm); line-height: 1.5;
           border-top: 1px solid var(--border-color-primary); padding-top: 1rem; }
.vz-note p { margin: 0 0 .7rem; break-inside: avoid; color: var(--body-text-color-subdued); }
.vz-note strong { color: var(--body-text-color); font-weight: 600; }
.gradio-container :is(.vz-about, .vz-head, .vz-caution) a { display: inline; padding: 0; margin: 0; color: var(--vz-accent);
                                                            text-decoration: underline; }

.vz-stages { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
             gap: 1.9rem 2.25rem; }
.vz-stage { min-width: 0; border-top: 2px solid var(--body-text-color); padding-top: .6rem; }
.vz-stage h2 { font-size: 1rem; font-weight: 650; margin: 0; }
.vz-stage h2 + p { margin: .1rem 0 .9rem; color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.vz-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(98px, 1fr)); gap: 1rem .7rem;
           margin: 0; padding: 0 !important; list-style: none !important; }
.vz-grid li { margin: 0; min-width: 0; }
.vz-frame { display: flex; align-items: center; justify-content: center; aspect-ratio: 4 / 3; overflow: hidden;
            background: var(--vz-wash); }
.vz-frame img { max-width: 100%; max-height: 100%; display: block; }
.vz-frame em { font-size: var(--text-xs); color: var(--body-text-color-subdued); text-align: center; padding: .5rem;
               font-style: normal; }
.vz-line { display: flex; align-items: baseline; gap: .45rem; padding-top: .35rem; font-variant-numeric: tabular-nums; }
.vz-rank { font-weight: 650; }
.vz-score { color: var(--body-text-color-subdued); }
.vz-moved { margin-left: auto; font-size: var(--text-xs); font-weight: 600; white-space: nowrap;
            color: var(--body-text-color-subdued); }
.vz-moved.up { color: var(--vz-accent); }
.vz-name { font-size: var(--text-xs); color: var(--body-text-color-subdued); overflow: hidden; text-overflow: ellipsis;
           white-space: nowrap; }

@media (max-width: 640px) {
  .vz-columns { gap: 1.5rem !important; }
  .vz-results { min-height: 0; }
  .vz-empty { padding: 2.2rem 1rem; }
  .vz-card { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .vz-drawn .image-frame { overflow-x: auto; justify-content: flex-start; }
  .vz-drawn img { min-width: 45rem; }
  .vz-card dd { margin-bottom: .5rem; }
}
"""

__all__ = ["CSS", "theme"]

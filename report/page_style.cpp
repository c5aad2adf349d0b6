#include "report/page_parts.h"

namespace kvsmith {
namespace {

constexpr std::string_view kPageCss = R"css(
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;padding:3rem 1.5rem 2rem;max-width:64rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1,.summary,p,li{overflow-wrap:anywhere}
h1{font-size:1.05rem;font-weight:500;color:var(--muted);margin:0 0 .4rem}
.summary{font-size:1.6rem;line-height:1.3;font-weight:600;letter-spacing:-.012em;margin:0 0 2.5rem;
max-width:44rem;text-wrap:balance}
h2{font-size:1.05rem;font-weight:600;margin:3rem 0 .25rem}
p{margin:.25rem 0;max-width:44rem}
.caption,.notes,footer{color:var(--muted);font-size:.875rem}
.notes{margin:.5rem 0;padding:0;list-style:none;max-width:48rem}
.notes li{margin:.2rem 0}
.notes .flag{color:var(--ink)}
figure{margin:1.25rem 0 0}
.chart{display:block;width:100%;height:auto}
.narrow{display:none}
.multiples{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1.5rem}
table{width:100%;border-collapse:collapse;margin:1rem 0 .75rem;font-size:.875rem;
font-variant-numeric:tabular-nums}
th{font-weight:500;color:var(--muted);font-size:.8125rem;line-height:1.25;vertical-align:bottom}
th,td{padding:.45rem 0 .45rem .875rem;text-align:right;border-bottom:1px solid var(--hair)}
td{white-space:nowrap}
th.text,td.text{text-align:left}
td.run,td.architecture{white-space:normal;overflow-wrap:anywhere;min-width:7rem}
th:first-child,td:first-child{padding-left:0}
td.run svg{vertical-align:-.1em;margin-right:.5rem}
td.run{font-weight:600}
td.best{font-weight:700}
.baseline td{color:var(--muted);border-bottom:0;white-space:normal}
.differs{font-weight:700}
footer{margin-top:3.5rem;padding-top:1rem;border-top:1px solid var(--hair)}
a{color:inherit;text-underline-offset:.15em}
.facets{display:flex;flex-wrap:wrap;gap:.75rem 2rem;margin:1.25rem 0 0}
fieldset{border:0;margin:0;padding:0;min-width:0;font-size:.875rem}
legend{padding:0;color:var(--muted);font-size:.8125rem}
fieldset label{display:inline-block;margin-right:.9rem;white-space:nowrap}
fieldset input{margin:0 .35rem 0 0;vertical-align:-.1em}
label svg{vertical-align:-.1em;margin-right:.35rem}
.neutral svg{--c:var(--muted)}
h3{font-size:.9375rem;font-weight:600;margin:1.5rem 0 .25rem}
.multiples h3{margin-top:0}
.scroll{overflow-x:auto;margin-inline:calc(50% - min(50vw - 1.75rem,44rem))}
.points th,.points td{padding:.3rem 0 .3rem .7rem}
.points{font-size:.8125rem}
.points td:first-child svg{vertical-align:-.1em;margin-right:.5rem}
.points th button{all:unset;cursor:pointer}
.points th button:focus-visible{outline:2px solid var(--front)}
.points th[aria-sort=ascending] button::after{content:" ↑"}
.points th[aria-sort=descending] button::after{content:" ↓"}
.points tr.lit td{background:var(--hair)}
.chart .lit .mark{stroke:var(--ink);opacity:1}
.tip{position:fixed;z-index:1;pointer-events:none;max-width:26rem;padding:.5rem .7rem;border-radius:4px;
background:var(--ink);color:var(--paper);font-size:.8125rem;line-height:1.4;white-space:pre-line}
.tip::first-line{font-weight:600}
@media screen and (max-width:44rem){
body{padding:1.75rem 1rem 1.5rem}
.summary{font-size:1.3rem;margin-bottom:1.75rem}
.wide{display:none}
.narrow{display:block}
}
@media screen and (max-width:60rem){
.runs,.runs tbody,.runs tr{display:block}
.runs thead{display:none}
.runs tr{display:grid;grid-template-columns:repeat(3,1fr);gap:.5rem .75rem;padding:1rem 0;
border-bottom:1px solid var(--hair)}
.runs td,.runs td.text{display:block;padding:0;border:0;text-align:left;min-width:0;overflow-wrap:anywhere}
.runs td::before{content:attr(data-label);display:block;color:var(--muted);font-size:.75rem;font-weight:400}
.runs td.run,.baseline td{grid-column:1/-1}
.runs td.architecture,.runs td.window{grid-column:span 2}
.runs td.run{font-size:1rem}
.runs td.run::before,.runs .baseline td::before{content:none}
.baseline td:empty{display:none}
}
@media print{
@page{margin:14mm}
body{padding:0;max-width:none;font-size:10pt}
.summary{font-size:15pt;margin-bottom:1.25rem}
h2{margin-top:1.5rem}
h2,.caption{break-after:avoid}
table{font-size:7.5pt}
th{font-size:7pt}
th,td{padding-left:.6rem}
figure>div,tr,.reading{break-inside:avoid}
.scroll{overflow:visible;margin:0}
.points{font-size:6pt}
.tip{display:none}
.files{display:none}
}
)css";

}  // namespace

std::string_view page_css() { return kPageCss; }

}  // namespace kvsmith

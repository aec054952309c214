// The probe as a page of its own: the view of probe.js over HTTP.
import { mount, overHttp } from "/static/probe.js";

mount(document.getElementById("probe"), overHttp());

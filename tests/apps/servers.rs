//! The guest's programs as servers of the world's clients, by way of forwards.

use serde_json::Value;
use vonic_tests::*;

use super::clients::{Figure, IPERF3_SUMS, iperf3_report, number, typed};
use super::{Ground, Place, SMALL, SSH, check, digest};

/// The guest's web server under load, every byte of every answer compared; and a large file of it.
pub fn web_server(ground: &mut Ground, place: &Place) -> Figure {
    let (at, size, time) = (place.forwards_url(), SMALL, ground.amount.seconds);
    let command = format!("LENGTH={size} wrk -t1 -c16 -d{time}s -s wrk.lua http://{at}:8080/small | tail -n 1");
    let said = ground.world(&command, seconds(u64::from(time) + 30))?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let faults: f64 = ["bad", "connect", "read", "write"].iter().map(|name| number(&report, name).unwrap_or(1.0)).sum();
    check(faults == 0.0 && number(&report, "good")? > 0.0, || said.clone())?;
    let got = ground.world(&format!("curl -sS http://{at}:8080/0 | sha256sum"), seconds(90))?;
    check(got.starts_with(&digest(ground.sizes[0])), || got.clone())?;
    Ok(format!(
        "{:.0}/s of {size} bytes, median {:.1} ms",
        number(&report, "per_second")?,
        number(&report, "median_ms")?
    ))
}

/// A session at a terminal of the guest, and files by scp both ways.
pub fn ssh_server(ground: &mut Ground, place: &Place) -> Figure {
    let keys = format!("-i id {SSH}");
    let (to, url) = (place.forwards(), place.forwards_url());
    let session = format!("python3 apps.py type_keys 100 ssh {keys} -tt -p 2222 root@{to} 'tty && cat'");
    let echoes = typed(&ground.world(&session, seconds(60))?, place)?;
    let copies = format!(
        "scp -q -O {keys} -P 2222 root@{url}:/run/www/0 got && cmp got www/0 && \
         scp -q -O {keys} -P 2222 got root@{url}:/run/got && rm got"
    );
    ground.world(&copies, seconds(90))?;
    ground.guest.must("cmp /run/got /run/www/0 && rm /run/got", seconds(30))?;
    Ok(format!("{echoes}; scp {} bytes each way", ground.sizes[0]))
}

/// The world's iperf3 and the world's checked streams towards the guest.
pub fn iperf3_server(ground: &mut Ground, place: &Place) -> Figure {
    let (at, url, time) = (place.forwards(), place.forwards_url(), ground.amount.seconds);
    let mut figures = Vec::new();
    for direction in ["", "-R"] {
        let command = format!("timeout 45 iperf3 -c {at} -p 5301 -t {time} -P 8 {direction} {IPERF3_SUMS}");
        let once = || ground.world(&command, seconds(90));
        // A reset that is lost comes no second time (RFC 9293 §3.5.2): a client that came too early and only waits does so for ever.
        let again = |said: String| if said.is_empty() && place.loss { once() } else { Ok(said) };
        let figure = iperf3_report(|| again(once()?))?;
        figures.push(format!("8{direction} {figure}"));
    }
    let bytes = (ground.amount.file / 8).to_string();
    let arguments = ["both", &format!("{url}:7007"), &bytes, "8", "8"];
    let result = peer(&arguments, None, ground.bed.directory.path(), seconds(90))?;
    check(result["ok"] == true, || result.to_string())?;
    Ok(format!("Mbit/s {}", figures.join(", ")))
}

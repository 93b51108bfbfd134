//! What samples of a process tell.

/// How much of these samples is the kernel's, 1 being all of it: addresses in hexadecimal, one in a line. The kernel has the
/// upper half of the addresses on all 64-bit machines. None without a sample.
pub fn kernel_share(addresses: &str) -> Option<f64> {
    let parsed = addresses
        .lines()
        .filter_map(|line| u64::from_str_radix(line.trim(), 16).ok());
    let (mut all, mut kernel) = (0_u32, 0_u32);
    for address in parsed {
        all += 1;
        kernel += u32::from(address >> 63 == 1);
    }
    (all > 0).then(|| f64::from(kernel) / f64::from(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_half_is_the_kernel() {
        let text = "     7f7e5552e813\n ffffffff821c7af2\n\nffff800080123456 \n ffffffff821f5127\n";
        assert_eq!(kernel_share(text), Some(0.75));
        assert_eq!(kernel_share("       55d2c0\n"), Some(0.0));
    }

    #[test]
    fn nothing_was_sampled() {
        assert_eq!(kernel_share(""), None);
        assert_eq!(kernel_share("no address\n"), None);
    }
}

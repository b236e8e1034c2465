//! The extent of legacy tables, against what `iptables-legacy` does to them.

use netlink::{Family, xtables};

use super::{in_namespace, tool};

#[test]
fn a_rule_more_shows_in_the_extent_of_its_table_alone() {
    in_namespace(|| {
        for (family, program) in [(Family::V4, "iptables-legacy"), (Family::V6, "ip6tables-legacy")]
        {
            let extents = || ["nat", "filter"].map(|table| xtables::extent(family, table).unwrap());
            tool(&format!("{program} -w 5 -t filter -N OTHER"));
            let before = extents();
            tool(&format!("{program} -w 5 -t nat -A PREROUTING -p tcp -j RETURN"));
            let after = extents();
            assert_eq!(after[0].entries, before[0].entries + 1, "{program}");
            assert!(after[0].bytes > before[0].bytes, "{program}");
            assert_eq!(after[1], before[1], "{program}");
            tool(&format!("{program} -w 5 -t nat -F"));
            assert_eq!(extents(), before, "{program}");
        }
        let error = xtables::extent(Family::V4, "no-such-table").unwrap_err();
        assert!(error.not_found(), "{error}");
    });
}

use coding_day_crate::{digits, sum_to};

fn main() {
    println!("sum {}, seven hex {:x}", digits(sum_to(100)), 7);
}

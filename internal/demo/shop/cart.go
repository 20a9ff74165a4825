package shop

import (
	"context"
	"net/http"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const cartCookie = "cart"

// cartID reads the visitor's cookie; false where there is no cart yet.
func cartID(r *http.Request) (string, bool) {
	cookie, err := r.Cookie(cartCookie)
	if err != nil {
		return "", false
	}
	return parseToken(cookie.Value)
}

func (s *Store) cart(r *http.Request) (c cart, err error) {
	id, ok := cartID(r)
	if !ok {
		return cart{}, nil
	}
	err = s.read(r, func(ctx context.Context, pool *pgxpool.Pool) error {
		c, err = queryCart(ctx, pool, id)
		return err
	})
	return c, err
}

func (s *Store) showCart(w http.ResponseWriter, r *http.Request) error {
	c, err := s.cart(r)
	if err != nil {
		return err
	}
	return s.render(w, r, http.StatusOK, "cart", "Your cart", c)
}

// number reads a form value or path value within bounds.
func number(name, text string, least, most int64) (int32, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < least || n > most {
		return 0, invalid("%s must be a number from %d to %d", name, least, most)
	}
	return int32(n), nil
}

const maxID = 1<<31 - 1

func (s *Store) addToCart(w http.ResponseWriter, r *http.Request) error {
	variantID, err := number("variant", r.PostFormValue("variant_id"), 1, maxID)
	if err != nil {
		return err
	}
	quantity, err := number("quantity", r.PostFormValue("quantity"), 1, maxQuantity)
	if err != nil {
		return err
	}
	id, ok := cartID(r)
	if !ok {
		id = newToken()
	}
	err = s.write(r, notRepeatable, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, addToCartSQL, id, variantID, quantity)
		if err == nil && tag.RowsAffected() == 0 {
			return notFound("variant")
		}
		return err
	})
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: cartCookie, Value: id, Path: "/", MaxAge: 30 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
	return nil
}

// changeCart sets a quantity; 0 removes the line.
func (s *Store) changeCart(w http.ResponseWriter, r *http.Request) error {
	variantID, err := number("variant", r.PathValue("variant"), 1, maxID)
	if err != nil {
		return err
	}
	quantity, err := number("quantity", r.PostFormValue("quantity"), 0, maxQuantity)
	if err != nil {
		return err
	}
	if id, ok := cartID(r); ok {
		err = s.write(r, repeatable, func(ctx context.Context, tx pgx.Tx) (err error) {
			if quantity == 0 {
				_, err = tx.Exec(ctx, removeFromCartSQL, id, variantID)
			} else {
				_, err = tx.Exec(ctx, setCartQuantitySQL, id, variantID, quantity)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
	return nil
}

// checkoutForm is the form as it was filled in, and what is wrong with it.
type checkoutForm struct {
	Token    string
	Customer Customer
	Cart     cart
	Problem  string
}

func (s *Store) showCheckout(w http.ResponseWriter, r *http.Request) error {
	c, err := s.cart(r)
	if err != nil {
		return err
	}
	if len(c.Items) == 0 {
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
		return nil
	}
	// The form carries the order's token: sent twice, it is one order.
	return s.render(w, r, http.StatusOK, "checkout", "Checkout", checkoutForm{Token: newToken(), Cart: c})
}

func (s *Store) checkout(w http.ResponseWriter, r *http.Request) error {
	token, ok := parseToken(r.PostFormValue("token"))
	if !ok {
		return invalid("the form is incomplete; please open the checkout again")
	}
	c, err := s.cart(r)
	if err != nil {
		return err
	}
	form := checkoutForm{Token: token, Cart: c, Customer: Customer{
		Name:     r.PostFormValue("name"),
		Email:    r.PostFormValue("email"),
		Street:   r.PostFormValue("street"),
		Postcode: r.PostFormValue("postcode"),
		City:     r.PostFormValue("city"),
		Country:  r.PostFormValue("country"),
	}}
	confirmation := "/orders/" + token
	if len(c.Items) == 0 {
		// The second click on "place order" finds an empty cart and,
		// behind the token, the order of the first.
		http.Redirect(w, r, confirmation, http.StatusSeeOther)
		return nil
	}
	_, err = s.PlaceOrder(r.Context(), Order{Token: token, Customer: form.Customer, Lines: c.lines()})
	if status, text := statusOf(err); err != nil && status == http.StatusUnprocessableEntity {
		form.Problem = text
		return s.render(w, r, status, "checkout", "Checkout", form)
	}
	if err != nil {
		return err
	}
	s.emptyCart(r)
	http.Redirect(w, r, confirmation, http.StatusSeeOther)
	return nil
}

// emptyCart comes after the order is placed; if it fails, the visitor has a
// full cart and an order, and must not be told that the order failed.
func (s *Store) emptyCart(r *http.Request) {
	id, _ := cartID(r)
	err := s.write(r, repeatable, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM shop.carts WHERE id = $1::uuid`, id)
		return err
	})
	if err != nil {
		s.options.Logger.Warn("cart not emptied after its order", "error", err)
	}
}

func (s *Store) showOrder(w http.ResponseWriter, r *http.Request) error {
	token, ok := parseToken(r.PathValue("token"))
	if !ok {
		return notFound("order")
	}
	var o placedOrder
	err := s.read(r, func(ctx context.Context, pool *pgxpool.Pool) (err error) {
		o, err = queryOrder(ctx, pool, token)
		return err
	})
	if err != nil {
		return err
	}
	return s.render(w, r, http.StatusOK, "order", "Thank you", o)
}
